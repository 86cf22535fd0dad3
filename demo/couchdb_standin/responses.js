/**
 * What express-pouchdb answers, put into CouchDB's words and order.
 *
 * Every JSON answer passes through `utils.sendJSON`, so this is the one place where answers are corrected. Without it
 * clients would be tested against reasons, sequences and an order of rows that no CouchDB gives.
 */
'use strict';

const { toSequence } = require('./sequences');

const COUCHDB_REASONS = {
  no_db_file: 'Database does not exist.',
  'Document update conflict': 'Document update conflict.',
  'The database could not be created.': 'The database could not be created, the file already exists.',
};

/** Corrects `answer` in place; a document that a client stored passes untouched. */
function speakCouchDB(answer) {
  if (answer.error) answer.reason = COUCHDB_REASONS[answer.reason] || answer.reason;
  const isInfoOrView = 'db_name' in answer || 'total_rows' in answer;
  if (isInfoOrView && 'update_seq' in answer) answer.update_seq = toSequence(answer.update_seq);
  // aiocouch reads the bookmark of every _find answer; PouchDB gives none. 'nil' is CouchDB's own "no more".
  if (Array.isArray(answer.docs) && !('_id' in answer)) answer.bookmark = 'nil';
}

/**
 * The rows of a `_bulk_docs` answer in the order of the documents: on LevelDB, PouchDB puts refused rows first, and
 * a client that pairs rows with documents by position (as CouchDB allows) would take one's conflict for another's.
 */
function inOrderOfDocs(docs, rows) {
  const given = new Set(docs.map((doc) => doc._id));
  const invented = rows.filter((row) => !given.has(row.id));
  const rowsById = groupById(rows);
  return docs.map((doc) => (doc._id === undefined ? invented.shift() : rowsById.get(doc._id).shift()));
}

function groupById(rows) {
  const groups = new Map();
  for (const row of rows) {
    if (!groups.has(row.id)) groups.set(row.id, []);
    groups.get(row.id).push(row);
  }
  return groups;
}

/** Wraps `sendJSON` of express-pouchdb's utils, which all its routes look up anew for each answer. */
function mendResponses(utils) {
  const sendJSON = utils.sendJSON;
  utils.sendJSON = (res, status, answer) => {
    const docs = res.req.body?.docs;
    const isBulkAnswer = Array.isArray(answer) && Array.isArray(docs) && answer.length === docs.length;
    const mended = isBulkAnswer ? inOrderOfDocs(docs, answer) : answer;
    for (const part of [mended].flat()) if (part && typeof part === 'object') speakCouchDB(part);
    // An unknown _member is the client's fault: express-pouchdb says 500, which a gateway would repeat for ever.
    sendJSON(res, mended?.error === 'doc_validation' ? 400 : status, mended);
  };
}

module.exports = { mendResponses };
