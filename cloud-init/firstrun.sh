#!/bin/bash
# Written by lekiwi-provisioner for Raspberry Pi OS Bookworm. Holds an enrolment token until the robot is enrolled: keep
# it off shared drives. systemd runs it before the network is up; when it is cut off, it runs again at the next boot.
root=${LEKIWI_ROOT:-}
boot=$root/boot/firmware
exec >>"$boot/lekiwi-firstrun.log" 2>&1
{{put}}

# One part's failure keeps no other part from being tried, and is in the log.
(
{{first_boot}}
# Enabled here, started by the reboot that follows.
SYSTEMD_OFFLINE=1 sh "$root/run/lekiwi-first-boot"
)
(
set -eu
name=$(cat "$root/etc/hostname")
sed -i '/^127\.0\.1\.1[[:space:]]/d' "$root/etc/hosts"
printf '127.0.1.1\t%s\n' "$name" >>"$root/etc/hosts"
)
{{steps}}

# Last: from here on this script does not run again.
words=$(tr '\n' ' ' <"$boot/cmdline.txt" | sed 's/ systemd\.run[^ ]*//g; s/ systemd\.unit=kernel-command-line\.target//g; s/ *$//')
printf '%s\n' "$words" >"$boot/cmdline.new"
sync
mv -f "$boot/cmdline.new" "$boot/cmdline.txt"
sync
exit 0
