# Makes this machine the robot that the seed is for. Runs as root at every boot until it went through to its end,
# and may be cut off at any line: each file is old or new, never half. $root is where tests put the system.
set -eu
instance={{instance_id}}
token={{token}}
marker=$root/etc/lekiwi/seed
if [ "$(cat "$marker" 2>/dev/null)" = "$instance" ]; then
  exit 0
fi
{{put}}
name={{name}}
if [ -z "$name" ]; then
  # The board's serial number ends with a NUL; a virtual machine has none.
  serial=$(tr -cd '[:xdigit:]' 2>/dev/null <"$root/proc/device-tree/serial-number" || true)
  [ "${#serial}" -ge 8 ] || serial=$(cat "$root/etc/machine-id")
  name={{prefix}}-$(printf '%s' "$serial" | tail -c 8 | tr '[:upper:]' '[:lower:]')
fi
put "$root/etc/hostname" 644 "$name"
printf '%s' "$name" >"$root/proc/sys/kernel/hostname"
mkdir -p "$root/etc/lekiwi" "$root/opt/lekiwi-agent/state"
chmod 755 "$root/opt/lekiwi-agent"
put "$root/etc/lekiwi/agent.yml" 640 {{agent_yml}}
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
printf '%s\n' {{instance_id}} >"$root/etc/lekiwi/seed.new"
mv -f "$root/etc/lekiwi/seed.new" "$root/etc/lekiwi/seed"
sync
END
