"""What `cht-rapidpro demo --keep` says: where everything is, and commands to paste.

The commands are complete and quoted for a shell. Only the password of a server that is not ours is left out, because
terminals are recorded and shared; curl asks for it then.
"""

import json
import shlex
from pathlib import Path

from demo.couchdb import CouchDBServer, ExternalCouchDB
from demo.database import Doc
from demo.medic import data_record, message, task

_SMS = {"urn": "tel:+254712345998", "text": "PREG Zawadi 20", "flow": "Relay to CHT"}


def instructions(couchdb: CouchDBServer, database: str, rapidpro_url: str, webhook_url: str, log: Path) -> str:
    """The text, several lines; each command is one line of its own, beginning with `curl`."""
    user = couchdb.user if isinstance(couchdb, ExternalCouchDB) else f"{couchdb.user}:{couchdb.password}"
    medic = f"{couchdb.url}/{database}"
    json_type, document = "Content-Type: application/json", json.dumps(_document())
    write = shlex.join(["curl", "-u", user, "-H", json_type, "-d", document, medic])
    receive = shlex.join(["curl", "-d", json.dumps(_SMS), f"{rapidpro_url}/control/receive"])
    read = shlex.join(["curl", "-u", user, f"{medic}/_changes?descending=true&limit=1&include_docs=true"])
    return f"""
Everything keeps running until Ctrl-C.

  CouchDB             {medic}   user {user}
  RapidPro simulator  {rapidpro_url}/api/v2/
  its control side    {rapidpro_url}/control   (also /broadcasts, /messages, /calls)
  the webhook         {webhook_url}
  the daemon's log    {log}

Write a document with a pending message, as often as you like:

{write}

Look at what became of it, in CouchDB and on the phone:

{read}
curl {rapidpro_url}/control/messages

Send an SMS from a phone; the flow calls the webhook, and a record is there (look again):

{receive}
"""


def _document() -> Doc:
    """Without an id: CouchDB chooses one, so that the command can be repeated."""
    doc = data_record(task(message("Hello from the shell", "+254712345999")))
    del doc["_id"]
    return doc
