/** A view is paged by key and document, as in CouchDB: PouchDB does not know `startkey_docid`. */
'use strict';

const { AsyncLocalStorage } = require('async_hooks');
const { toIndexableString } = require('pouchdb-collate');

const pages = new AsyncLocalStorage();

/** PouchDB keeps a view as a database whose ids are key and document in one text; a page is a range of these. */
function readFromDocument(index) {
  const { allDocs } = index;
  index.allDocs = (options, ...rest) => {
    const { descending, startkey, startkey_docid: document } = pages.getStore() || {};
    const above = descending ? [{}] : [];
    if (!document || options.startkey !== toIndexableString([startkey, ...above])) {
      return allDocs.call(index, options, ...rest);
    }
    return allDocs.call(index, { ...options, startkey: toIndexableString([startkey, document, ...above]) }, ...rest);
  };
}

function mendIndexes(db) {
  const register = db.registerDependentDatabase;
  db.registerDependentDatabase = async (...args) => {
    const registered = await register.apply(db, args);
    readFromDocument(registered.db);
    return registered;
  };
}

function mendViews(PouchDB) {
  const { query } = PouchDB.prototype;
  const mended = new WeakSet();

  PouchDB.prototype.query = function queryFrom(view, options, callback) {
    if (!mended.has(this)) mendIndexes(this);
    mended.add(this);
    return pages.run(options, () => query.call(this, view, options, callback));
  };
}

module.exports = { mendViews };
