/**
 * What has to happen to a request before express-pouchdb sees it, so that it answers as CouchDB would.
 *
 * One middleware for each defect, in the order in which they must run. Without them a client meets text/plain, an
 * endless wait or a silent deletion where CouchDB answers JSON, 401 or 409.
 */
'use strict';

const utils = require('express-pouchdb/lib/utils');
const { getOrCreateDB } = require('express-pouchdb/lib/create-or-delete-dbs');

const LEGAL_DATABASE_NAME = /^[a-z][a-z0-9_$()+-]*$/;

const refuse = (res, status, error, reason) => res.status(status).json({ error, reason });

const unquote = (etag) => etag.replace(/"/g, '');

/** `/db/_design/medic/_view/x` → database 'db', document '_design/medic', rest ['_view', 'x']. */
function parsePath(req, res, next) {
  const [database, ...parts] = req.path.slice(1).split('/').map(decodeURIComponent);
  const depth = /^_(design|local)$/.test(parts[0]) ? 2 : 1;
  req.target = { database, document: parts.slice(0, depth).join('/'), rest: parts.slice(depth) };
  next();
}

/** The two routes that need no credentials: express-pouchdb has no `_up`, and another welcome. */
function welcome(req, res, next) {
  const { database } = req.target;
  if (database === '') {
    return res.json({ couchdb: 'Welcome', version: '3.3.3', vendor: { name: 'express-pouchdb' } });
  }
  return database === '_up' ? res.json({ status: 'ok', seeds: {} }) : next();
}

/** The name in the Authorization header or the session cookie; whether the secret fits is checked by the routes. */
function claimedUser({ headers }) {
  const [, cookie] = /AuthSession=([^;]+)/.exec(headers.cookie) || [];
  const encoded = (headers.authorization || '').replace(/^Basic /, '') || cookie || '';
  return Buffer.from(encoded, 'base64').toString().split(':')[0];
}

/** CouchDB counts its requests, and the benchmarks read the counter; here it counts those of this process. */
function countRequests() {
  let requests = 0;
  return (req, res, next) => {
    requests += 1;
    if (!/^\/_node\/[^/]+\/_stats\/couchdb\/httpd\/requests$/.test(req.path)) return next();
    return res.json({ value: requests, type: 'counter', desc: 'number of HTTP requests' });
  };
}

/** express-pouchdb opens new databases to every user; CouchDB asks for credentials. */
function requireCredentials(req, res, next) {
  if (req.target.database === '_session' || claimedUser(req)) return next();
  return refuse(res, 401, 'unauthorized', 'You are not authorized to access this db.');
}

/** An Accept header of any type is answered as text/plain, which JSON clients refuse to read. */
function preferJSON(req, res, next) {
  req.headers.accept = 'application/json';
  next();
}

/** The configuration moved in CouchDB 2, and chttpd_auth is its newer name for the same secret. */
function findConfiguration(req, res, next) {
  req.url = req.url
    .replace(/^\/_node\/[^/]+\/_config/, '/_config')
    .replace(/^\/_config\/chttpd_auth/, '/_config/couch_httpd_auth');
  next();
}

/** If-Match is not looked at: a conditional write would become an unconditional one. */
function obeyIfMatch(req, res, next) {
  if (req.headers['if-match']) req.query.rev = unquote(req.headers['if-match']);
  next();
}

/**
 * Without this a non-admin who creates or deletes a database gets no answer, ever; any name is taken; and deleting
 * what does not exist is called a success.
 */
function guardDatabases(PouchDB, admin) {
  return async (req, res, next) => {
    const { database, document } = req.target;
    if (document || database.startsWith('_') || !/PUT|DELETE/.test(req.method)) return next();
    if (claimedUser(req) !== admin) return refuse(res, 401, 'unauthorized', 'You are not a server admin.');
    if (!LEGAL_DATABASE_NAME.test(database)) {
      return refuse(res, 400, 'illegal_database_name', `Name: '${database}'.`);
    }
    if (req.method === 'DELETE' && !(await PouchDB.allDbs()).includes(database)) {
      return refuse(res, 404, 'not_found', 'Database does not exist.');
    }
    return next();
  };
}

/** A DELETE of a document without a revision removes any revision; CouchDB calls it a conflict. */
function requireRevisionToDelete(req, res, next) {
  const { database, document } = req.target;
  if (req.method !== 'DELETE' || !document || document === '_index' || req.query.rev) return next();
  if (database === '_node') return next(); // a key of the configuration
  return refuse(res, 409, 'conflict', 'Document update conflict.');
}

function isDocumentWrite({ method, headers, target }) {
  return (
    method === 'PUT' &&
    /^([a-z]|_users$)/.test(target.database) &&
    /^([^_]|_(design|local)\/)/.test(target.document) &&
    target.rest.length === 0 &&
    /json/.test(headers['content-type'])
  );
}

/**
 * A PUT goes to the id in the URL, where express-pouchdb prefers one in the body; and a `_local` document is written
 * with any revision (as in CouchDB), so that no test can take it for a lock.
 */
function mendDocumentWrites(PouchDB) {
  return (req, res, next) => {
    if (!isDocumentWrite(req)) return next();
    return utils.jsonParser(req, res, () => addressDocument(PouchDB, req).then(next, next));
  };
}

async function addressDocument(PouchDB, { target, body, query }) {
  body._id = target.document;
  if (!body._id.startsWith('_local/')) return;
  delete query.rev;
  body._rev = await storedRevision(await getOrCreateDB(PouchDB, target.database), body._id);
}

async function storedRevision(db, id) {
  const absent = (error) => {
    if (error.status === 404) return {};
    throw error;
  };
  return (await db.get(id).catch(absent))._rev;
}

const mendRequests = (PouchDB, admin) => [
  parsePath,
  welcome,
  requireCredentials,
  countRequests(),
  preferJSON,
  findConfiguration,
  obeyIfMatch,
  guardDatabases(PouchDB, admin),
  requireRevisionToDelete,
  mendDocumentWrites(PouchDB),
];

module.exports = { mendRequests };
