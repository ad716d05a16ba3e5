"""A mail server for a test: STARTTLS and a login are required, each mail becomes a file of a folder.

Usage: smtp_server.py CERTIFICATE KEY FOLDER; says its port, and runs until standard input ends.
"""

import asyncio
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

certificate, key, folder = sys.argv[1:]
folder = pathlib.Path(folder)
folder.mkdir()


class Mailbox:
    count = 0

    async def handle_DATA(self, server, session, envelope):
        self.count += 1
        beside = folder / f".{self.count}"
        head = f"X-To: {','.join(envelope.rcpt_tos)}\r\n".encode()
        beside.write_bytes(head + envelope.content)
        beside.rename(folder / f"{self.count}.eml")
        return "250 kept"


def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"relay", b"a mail password"))


async def main():
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    mailbox = Mailbox()

    def connection():
        return SMTP(
            mailbox,
            hostname="127.0.0.1",
            tls_context=tls,
            require_starttls=True,
            authenticator=authenticate,
            auth_required=True,
        )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main())
