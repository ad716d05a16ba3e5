# The user: no password but one whose hash was ordered, and then not over the network.
user={{user}}
if [ -x "$root/usr/lib/userconf-pi/userconf" ]; then
  "$root/usr/lib/userconf-pi/userconf" "$user" {{hash}}
else
  id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user"
  printf '%s:%s\n' "$user" {{hash}} | chpasswd --encrypted
fi
usermod --append --groups sudo,dialout,video "$user"
home=$root$(getent passwd "$user" | cut -d: -f6)
mkdir -p "$home/.ssh"
chmod 700 "$home/.ssh"
put "$home/.ssh/authorized_keys" 600 {{ssh_keys}}
chown -R "$user:" "$home/.ssh"
put "$root/etc/ssh/sshd_config.d/50-lekiwi.conf" 644 'PasswordAuthentication no'
put "$root/etc/sudoers.d/010_lekiwi" 440 {{sudoers}}
systemctl enable ssh.service
