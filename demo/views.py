"""CHT's views that the gateway reads, written anew for the demo and the tests from what production emits.

A production database has CHT's own; the gateway never creates or changes a design document there. The functions are
ECMAScript 5, which QuickJS, SpiderMonkey and PouchDB read alike. A key or value that differs from CHT's would make the
tests prove something about a database that does not exist.
"""

from typing import Any, Final

_EACH_TASK: Final = """function (doc) {
  var tasks = (doc.tasks || []).concat(doc.scheduled_tasks || []);
  tasks.forEach(function (task) {
    %s
  });
}"""

_MESSAGES_BY_STATE: Final = """
    var due = task.due || task.timestamp || doc.reported_date;
    if (typeof due === 'string') {
      due = Date.parse(due);
    }
    var emitFor = function (value) {
      emit([task.state, due], value);
      if (task.state === 'pending' || task.state === 'forwarded-to-gateway') {
        emit(['pending-or-forwarded', due], value);
      }
    };
    if (!task.messages) {
      emitFor({});
      return;
    }
    task.messages.forEach(function (message) {
      if (message.uuid && message.to && message.message) {
        emitFor({ content: message.message, to: message.to, id: message.uuid });
      }
    });
"""

_MESSAGES_BY_UUID: Final = """
    (task.messages || []).forEach(function (message) {
      if (message.uuid) {
        emit(message.uuid, null);
      }
    });
"""

_MESSAGES_BY_GATEWAY_REF: Final = """
    if (task.gateway_ref) {
      (task.messages || []).forEach(function (message) {
        emit(task.gateway_ref, message.uuid);
      });
    }
"""

_INCOMING_BY_GATEWAY_REF: Final = """
  if (doc.type === 'data_record' && doc.sms_message && doc.sms_message.gateway_ref) {
    emit(doc.sms_message.gateway_ref, doc.sms_message.uuid);
  }
}"""

_MESSAGES_BY_LAST_UPDATED_STATE: Final = """
    var groups = {
      sent: 'final', delivered: 'final', failed: 'final', scheduled: 'scheduled',
      muted: 'muted', cleared: 'muted', denied: 'muted', duplicate: 'muted'
    };
    var history = task.state_history || [];
    var last = history.length && history[history.length - 1].timestamp;
    var updated = new Date(last || task.timestamp || doc.reported_date).getTime();
    emit([groups[task.state] || 'pending', updated, task.state], null);
"""

_GATEWAY_MESSAGES_BY_STATE: Final = """
    if (task.gateway_ref) {
      (task.messages || []).forEach(function (message) {
        emit(task.state, { id: message.uuid, gateway_ref: task.gateway_ref });
      });
    }
"""


def _for_each_task(body: str) -> str:
    return _EACH_TASK % body.strip()


def _design_document(name: str, maps: dict[str, str], **fields: object) -> dict[str, Any]:
    views = {view: {"map": function} for view, function in maps.items()}
    return {"_id": f"_design/{name}", "language": "javascript", "views": views, **fields}


def design_documents(cht_version: str) -> list[dict[str, Any]]:
    """`_design/medic`, which also names the version of CHT, and `_design/medic-sms`."""
    by_ref = _for_each_task(_MESSAGES_BY_GATEWAY_REF).removesuffix("\n}") + _INCOMING_BY_GATEWAY_REF
    medic_sms = {
        "messages_by_uuid": _for_each_task(_MESSAGES_BY_UUID),
        "messages_by_gateway_ref": by_ref,
        "messages_by_last_updated_state": _for_each_task(_MESSAGES_BY_LAST_UPDATED_STATE),
        "gateway_messages_by_state": _for_each_task(_GATEWAY_MESSAGES_BY_STATE),
    }
    medic = {"messages_by_state": _for_each_task(_MESSAGES_BY_STATE)}
    return [
        _design_document("medic", medic, build_info={"version": cht_version}),
        _design_document("medic-sms", medic_sms),
    ]
