"""Checks RapidPro: reachable, a valid token, the right workspace.

One request, `workspace.json`, which every version answers and which creates nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cht_rapidpro.adapters.rapidpro.transport import Reply, Transport
from cht_rapidpro.commands.check.couchdb import clock
from cht_rapidpro.commands.check.finding import Finding, bad, good, note
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain import phone
from cht_rapidpro.domain.outgoing import Ambiguous, NotSent, Trouble


async def check_rapidpro(
    rapidpro: Transport, base: str, token: Secret, settings: Mapping[str, Any], now: Callable[[], int]
) -> list[Finding]:
    """`base`: RapidPro's address; `settings`: the app settings; `now`: ms since the epoch, our clock."""
    reply = await rapidpro.request("GET", f"{base}/api/v2/workspace.json", token)
    match reply:
        case Reply(status=200, body={"name": str() as name, **workspace}):
            return [
                good("rapidpro.token", f"{base} knows the token: workspace {name!r}"),
                clock("rapidpro.clock", "RapidPro", reply.date, now()),
                *_workspace({str(key): value for key, value in workspace.items()}, settings),
            ]
        case Reply():
            return [_refusal(base, reply)]
        case NotSent(why) | Ambiguous(why):
            return [bad("rapidpro.reachable", f"{base} does not answer ({why})", "check [rapidpro] url; is it up?")]
        case Trouble(why):
            says = f"no safe connection to {base} ({why})"
            return [
                bad("rapidpro.reachable", says, "check [rapidpro] url and ca_file, and the proxy of the environment")
            ]


def _refusal(base: str, reply: Reply) -> Finding:
    said = reply.body.get("detail", "") if isinstance(reply.body, Mapping) else ""
    match reply.status:
        case 403 if said:
            return bad("rapidpro.token", f"{base} refuses the token: {said}", "make a new API token in the workspace")
        case 429:
            return note("rapidpro.token", f"{base} is throttling: the hour's requests are used up", "try again later")
        case 301 | 302 | 303 | 307 | 308:
            says = f"{base} redirects (HTTP {reply.status}); no redirect is followed, to protect the token"
            return bad("rapidpro.reachable", says, "set [rapidpro] url to the final address")
        case status:
            says = f"{base} answers HTTP {status} and is not RapidPro"
            return bad("rapidpro.reachable", says, "check [rapidpro] url, and the proxy in front of RapidPro")


def _workspace(workspace: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[Finding]:
    country, region = workspace.get("country"), phone.default_region(settings.get("default_country_code"))
    if country and region and country != region:
        yield bad(
            "rapidpro.country",
            f"the workspace is of {country}, default_country_code of {region}: numbers without + differ there",
            "make the two the same",
        )
    elif country:
        yield good("rapidpro.country", f"the workspace is of {country}")
    if workspace.get("anon"):
        yield note(
            "rapidpro.anonymous",
            "the workspace hides phone numbers: what a crash leaves ambiguous may need a human, equal texts are not"
            " sent together, and missed incoming messages cannot be fetched",
        )
