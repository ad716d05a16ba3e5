#!/bin/bash
# Written by lekiwi-provisioner for Raspberry Pi OS Bookworm. Holds an enrolment token until the robot is enrolled: keep
# it off shared drives. systemd runs it before the network is up; when it is cut off, it runs again at the next boot.
root=${LEKIWI_ROOT:-}
boot=$root/boot/firmware
exec >>"$boot/lekiwi-firstrun.log" 2>&1
put() {
  (umask 077 && printf '%s\n' "$3" >"$1.new")
  chmod "$2" "$1.new"
  mv -f "$1.new" "$1"
}

# One part's failure keeps no other part from being tried, and is in the log.
(
# Makes this machine the robot that the seed is for. Runs as root at every boot until it went through to its end,
# and may be cut off at any line: each file is old or new, never half. $root is where tests put the system.
set -eu
instance='kiwi-01-90a81cbc'
token='lkt_abcdefghijklmnopqrstuvwxyz0123456789-_ABCDE'
marker=$root/etc/lekiwi/seed
if [ "$(cat "$marker" 2>/dev/null)" = "$instance" ]; then
  exit 0
fi
put() {
  (umask 077 && printf '%s\n' "$3" >"$1.new")
  chmod "$2" "$1.new"
  mv -f "$1.new" "$1"
}
name='kiwi-01'
if [ -z "$name" ]; then
  # The board's serial number ends with a NUL; a virtual machine has none.
  serial=$(tr -cd '[:xdigit:]' 2>/dev/null <"$root/proc/device-tree/serial-number" || true)
  [ "${#serial}" -ge 8 ] || serial=$(cat "$root/etc/machine-id")
  name=''-$(printf '%s' "$serial" | tail -c 8 | tr '[:upper:]' '[:lower:]')
fi
put "$root/etc/hostname" 644 "$name"
printf '%s' "$name" >"$root/proc/sys/kernel/hostname"
mkdir -p "$root/etc/lekiwi" "$root/opt/lekiwi-agent/state"
chmod 755 "$root/opt/lekiwi-agent"
put "$root/etc/lekiwi/agent.yml" 640 'version: 1
robot_id: "kiwi-01"
org: "default"
profile: "lekiwi"
relay:
  https: "https://relay.example:8443"
  mqtt: "mqtts://relay.example:8883"
  ca_fingerprint: "sha256:0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
enrolment:
  token_file: /opt/lekiwi-agent/state/token'
case $token in
  lkt_0000000000*) ;; # scrubbed: the robot is enrolled
  *) put "$root/opt/lekiwi-agent/state/token" 600 "$token" ;;
esac
# The rest waits for the system to be up, and takes nothing from the seed that is secret.
cat >"$root/run/lekiwi-first-boot" <<'END'
set -eu
root=${LEKIWI_ROOT:-}
package=$root/boot/firmware/lekiwi-agent.deb
if [ -e "$package" ]; then
  dpkg --install "$package"
fi
# Profiles of one's own come before those of the package.
for profile in "$root"/boot/firmware/lekiwi/profiles/*.yml; do
  [ -e "$profile" ] || continue
  install -D -m 644 "$profile" "$root/etc/lekiwi/profiles/${profile##*/}"
done
# Who must have signed what this robot is configured as.
if [ -e "$root/boot/firmware/lekiwi/trust.json" ]; then
  install -D -m 644 "$root/boot/firmware/lekiwi/trust.json" "$root/etc/lekiwi/trust.json"
fi
chown root:lekiwi-agent "$root/etc/lekiwi" "$root/etc/lekiwi/agent.yml"
chmod 750 "$root/etc/lekiwi"
chown -R lekiwi-agent:lekiwi-agent "$root/opt/lekiwi-agent/state"
chmod 700 "$root/opt/lekiwi-agent/state"
systemctl enable lekiwi-agent.service
systemctl restart --no-block lekiwi-agent.service
sync
printf '%s\n' 'kiwi-01-90a81cbc' >"$root/etc/lekiwi/seed.new"
mv -f "$root/etc/lekiwi/seed.new" "$root/etc/lekiwi/seed"
sync
END
# Enabled here, started by the reboot that follows.
SYSTEMD_OFFLINE=1 sh "$root/run/lekiwi-first-boot"
)
(
set -eu
name=$(cat "$root/etc/hostname")
sed -i '/^127\.0\.1\.1[[:space:]]/d' "$root/etc/hosts"
printf '127.0.1.1\t%s\n' "$name" >>"$root/etc/hosts"
)
(
set -eu
# The user: no password but one whose hash was ordered, and then not over the network.
user='lekiwi'
if [ -x "$root/usr/lib/userconf-pi/userconf" ]; then
  "$root/usr/lib/userconf-pi/userconf" "$user" '*'
else
  id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user"
  printf '%s:%s\n' "$user" '*' | chpasswd --encrypted
fi
usermod --append --groups sudo,dialout,video "$user"
home=$root$(getent passwd "$user" | cut -d: -f6)
mkdir -p "$home/.ssh"
chmod 700 "$home/.ssh"
put "$home/.ssh/authorized_keys" 600 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample o'\''perator'
chown -R "$user:" "$home/.ssh"
put "$root/etc/ssh/sshd_config.d/50-lekiwi.conf" 644 'PasswordAuthentication no'
put "$root/etc/sudoers.d/010_lekiwi" 440 'lekiwi ALL=(ALL) NOPASSWD:ALL'
systemctl enable ssh.service
)

# Last: from here on this script does not run again.
words=$(tr '\n' ' ' <"$boot/cmdline.txt" | sed 's/ systemd\.run[^ ]*//g; s/ systemd\.unit=kernel-command-line\.target//g; s/ *$//')
printf '%s\n' "$words" >"$boot/cmdline.new"
sync
mv -f "$boot/cmdline.new" "$boot/cmdline.txt"
sync
exit 0
