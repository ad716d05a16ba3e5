nmcli psk 'it'\''s a secret'
password: 'kept''quoted value'
psk=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
