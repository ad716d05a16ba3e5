"""Content types that schemathesis does not know; what it makes up for them is text."""

import schemathesis

schemathesis.serializer.alias("application/pkcs10", "text/plain")
schemathesis.serializer.alias("application/offset+octet-stream", "text/plain")
