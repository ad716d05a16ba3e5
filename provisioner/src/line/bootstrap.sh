#!/bin/sh
# Turns the board that runs this into a unit of the line at @LINE@:
# reports it, writes its image to its one unmounted disk, reads that back, adds its seed, and restarts.
# LEKIWI_TARGET names another disk, LEKIWI_SERIAL a serial number; LEKIWI_RESTART=no stays up afterwards.
set -eu

main() {
  line='@LINE@'
  work=$(mktemp -d)
  mounted=
  trap 'end $?' EXIT
  serial=${LEKIWI_SERIAL:-$(own_serial)}
  case $serial in
    '' | *[!0-9a-fA-F]*) stop "expected a serial number of hex digits, got '$serial'" ;;
  esac
  mac=$(own_mac)
  memory=$(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)
  board=$(tr -d '\000' 2>/dev/null </proc/device-tree/model || uname -m)
  for tool in curl sha256sum dd lsblk mount mkfifo ip; do
    command -v "$tool" >/dev/null || stop "$tool is missing"
  done
  say booted "$(uname -sr)"

  target=${LEKIWI_TARGET:-$(free_disk)}
  [ -b "$target" ] || stop "expected a disk to write to, got '$target'"
  say target "$target"

  get "$line/images/$serial/sha256" 'the line has no image for this board'
  expected=$(cat "$work/got")
  name=${expected#*  }
  expected=${expected%%  *}
  case $name in
    *.xz) unpack='xz -dc' ;;
    *.gz) unpack='gzip -dc' ;;
    *.zst) unpack='zstd -dcq' ;;
    *) unpack=cat ;;
  esac
  command -v "${unpack%% *}" >/dev/null || stop "${unpack%% *} is missing"

  # What comes in and what goes out are summed on the way.
  mkfifo "$work/in" "$work/out"
  sha256sum <"$work/in" >"$work/in.sum" &
  in=$!
  sha256sum <"$work/out" >"$work/out.sum" &
  out=$!
  { curl -fsS "$line/images/$serial" || echo "curl: $?" >"$work/broken"; } | tee "$work/in" |
    { $unpack || echo "$unpack: $?" >"$work/broken"; } | tee "$work/out" |
    dd of="$target" bs=4M iflag=fullblock conv=fsync 2>"$work/dd" || stop "writing $target: $(sed -n 's/^dd: //p' "$work/dd")"
  wait "$in" "$out"
  [ ! -e "$work/broken" ] || stop "fetching the image: $(cat "$work/broken")"
  [ "$(cut -c 1-64 "$work/in.sum")" = "$expected" ] || stop 'the image arrived damaged'
  written=$(awk '/ bytes/ { print $1 }' "$work/dd")
  say written "$written bytes to $target"

  blockdev --flushbufs "$target" 2>/dev/null || sync
  found=$(head -c "$written" "$target" | sha256sum | cut -c 1-64)
  [ "$found" = "$(cut -c 1-64 "$work/out.sum")" ] || stop "$target reads back other bytes than were written"
  say verified "$target"

  # The kernel reads the new table, or else is told what is in it.
  blockdev --rereadpt "$target" 2>/dev/null || true
  partx --update "$target" 2>/dev/null || true
  if command -v udevadm >/dev/null; then udevadm settle || true; fi
  boot=$(boot_partition) || stop "expected a FAT partition on $target"
  mkdir "$work/boot"
  mount "$boot" "$work/boot" || stop "$boot cannot be mounted"
  mounted=$work/boot
  get "$line/seed/$serial" 'the line has no seed for this board'
  for file in $(cat "$work/got"); do
    get "$line/seed/$serial/$file" "the line gave no $file"
    cp "$work/got" "$work/boot/$file"
  done
  umount "$work/boot"
  mounted=
  sync
  say seeded "$boot"
  [ "${LEKIWI_RESTART:-yes}" = no ] || reboot
}

# Fetches into $work/got. The line may be busy, or wait for the relay: it is asked again for some minutes.
get() {
  curl -sS --fail-with-body --retry 8 --retry-connrefused -o "$work/got" "$1" ||
    stop "$2: $(head -c 200 "$work/got" 2>/dev/null | tr '\n' ' ')"
}

own_serial() {
  if [ -r /proc/device-tree/serial-number ]; then
    tr -d '\000' </proc/device-tree/serial-number
  else
    awk '/^Serial/ { print $3 }' /proc/cpuinfo
  fi
}

# The address of the interface that leads to the line.
own_mac() {
  host=${line#http://}
  device=$(ip -o route get "${host%%:*}" 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p')
  ip -o link show dev "${device:-eth0}" 2>/dev/null | sed -n 's,.* link/ether \([^ ]*\).*,\1,p'
}

# The one disk without a mounted partition.
free_disk() {
  disks=
  for disk in $(lsblk -dnpo NAME,TYPE | awk '$2 == "disk" { print $1 }'); do
    case $disk in /dev/ram* | /dev/zram* | /dev/mmcblk*boot* | /dev/loop*) continue ;; esac
    if [ -z "$(lsblk -nro MOUNTPOINT "$disk" | tr -d '[:space:]')" ]; then disks="$disks $disk"; fi
  done
  # shellcheck disable=SC2086
  set -- $disks
  [ $# -eq 1 ] || stop "expected one unmounted disk, found $#${disks:+:$disks} (LEKIWI_TARGET names one)"
  echo "$1"
}

boot_partition() {
  for partition in $(lsblk -nrpo NAME,TYPE "$target" | awk '$2 == "part" { print $1 }'); do
    # Where nobody keeps udev's records, the partition itself is asked.
    kind=$(lsblk -dnro FSTYPE "$partition")
    [ -n "$kind" ] || kind=$(blkid -o value -s TYPE "$partition" || true)
    if [ "$kind" = vfat ]; then
      echo "$partition"
      return
    fi
  done
  return 1
}

say() {
  echo "$1${2:+: $2}"
  report "$1" "${2:-}" || echo "the line did not take the report of $1" >&2
}

report() {
  printf '{"step":"%s","detail":"%s","board":"%s","memory_kib":%s%s}' \
    "$1" "$(plain "$2")" "$(plain "${board:-}")" "${memory:-0}" "${mac:+,\"mac\":\"$mac\"}" |
    curl -fsS -H 'content-type: application/json' --data-binary @- "$line/units/$serial/step"
}

plain() {
  printf %s "$1" | tr -d '"\\' | tr -c '[:print:]' ' '
}

stop() {
  echo "error: $1" >&2
  # A part of a pipeline or a substitution only ends itself; its word is kept for the end.
  printf %s "$1" >"$work/stopped"
  exit 1
}

end() {
  [ -z "$mounted" ] || umount "$mounted" || true
  if [ "$1" -ne 0 ]; then
    reason=$(cat "$work/stopped" 2>/dev/null || echo "the script ended with $1")
    report failed "$reason" || true
  fi
  rm -rf "$work"
}

main
