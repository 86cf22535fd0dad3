/**
 * `/db/_changes`, in place of express-pouchdb's own route, which dies on a POSTed selector, ignores `limit` and
 * `timeout`, gives no `pending` and keeps following for a client that has gone.
 *
 * Its promise: every change after `since` that passes the filter is delivered once, and `last_seq` is a `since` after
 * which nothing is missed. The gateway resumes from nothing else, so each test of the feed rests on this.
 */
'use strict';

const utils = require('express-pouchdb/lib/utils');
const { fromSequence, toSequence } = require('./sequences');

const LONGEST_WAIT_MS = 60_000; // CouchDB's cap and default for an idle feed
const ROWS_PER_READ = 500; // of a feed that is being followed, so that a slow client costs no memory

class BadRequest extends Error {
  constructor(reason) {
    super(reason);
    this.name = 'bad_request';
    this.status = 400;
  }
}

/** Where to begin, as a number. A `since` from before the database was re-created counts from 0, as in CouchDB. */
function startOf({ query, headers }, updateSeq) {
  const since = query['last-event-id'] ?? headers['last-event-id'] ?? query.since ?? 0;
  if (since === 'now') return updateSeq;
  const number = fromSequence(since);
  if (number === undefined) throw new BadRequest("Malformed sequence supplied in 'since' parameter.");
  return number > updateSeq ? 0 : number;
}

function filterOf({ query, body }) {
  if (query.filter === '_design') return { filter: (doc) => doc._id.startsWith('_design/') };
  if (query.filter !== '_selector') return { filter: query.filter, doc_ids: body?.doc_ids || query.doc_ids };
  if (!body?.selector) throw new BadRequest('Selector must be specified in POST payload');
  return { filter: '_selector', selector: body.selector };
}

/** The options of `db.changes`. `makeOpts` adds who is asking, which the security wrappers look at. */
function optionsOf(req) {
  const { query } = req;
  return utils.makeOpts(req, {
    ...filterOf(req),
    include_docs: query.include_docs === true,
    conflicts: query.conflicts === true,
    descending: query.descending === true,
    style: query.style,
    view: query.view,
    query_params: query,
  });
}

const toRow = (change) => JSON.stringify({ ...change, seq: toSequence(change.seq) });

/** One answer to one request: reads in bounded steps, and between them waits for a write, the time limit or the end. */
class Feed {
  constructor(req, res, updateSeq) {
    const { feed, limit, heartbeat, timeout } = req.query;
    this.db = req.db;
    this.res = res;
    this.options = optionsOf(req);
    this.since = startOf(req, updateSeq);
    this.watchedFrom = updateSeq; // taken before anything is read, so that no write falls between
    this.kind = feed;
    this.limit = limit === undefined ? Infinity : Math.max(1, limit);
    this.heartbeat = heartbeat; // undefined: none; wins over the timeout
    this.timeout = Math.min(timeout || LONGEST_WAIT_MS, LONGEST_WAIT_MS);
    this.sent = 0;
    this.ended = false;
    this.changed = false;
    this.wake = () => {};
  }

  async run() {
    // Read before the head is written: a bad filter still gets a proper error.
    const first = await this.read(this.kind === 'continuous' ? 1 : this.limit);
    this.res.writeHead(200, { 'Content-Type': 'application/json' });
    if (this.kind === 'continuous') return this.follow();
    if (this.kind === 'longpoll' && first.results.length === 0) {
      this.since = first.last_seq;
      return this.follow();
    }
    return this.answerAtOnce(first);
  }

  read(limit) {
    const bounded = limit === Infinity ? {} : { limit };
    return this.db.changes({ ...this.options, since: this.since, ...bounded });
  }

  async answerAtOnce({ results, last_seq: lastSeq }) {
    this.since = lastSeq;
    this.sent = results.length;
    this.res.end(`{"results":[\n${results.map(toRow).join(',\n')}\n],\n${await this.position()}}\n`);
  }

  async position() {
    // Nothing is left behind a read that was not cut by its limit, and a deleted database has nothing pending.
    const pending = this.sent < this.limit ? 0 : await this.countPending();
    return `"last_seq":"${toSequence(this.since)}","pending":${pending}`;
  }

  async countPending() {
    return (await this.db.changes({ since: this.since })).results.length;
  }

  async follow() {
    const release = this.subscribe();
    try {
      // At once, as CouchDB does: the client sees that its request has arrived.
      this.res.write(this.kind === 'longpoll' ? '{"results":[\n' : '\n');
      await this.sendUntilEnd();
      this.res.end(`${this.kind === 'longpoll' ? '\n],\n' : '{'}${await this.position()}}\n`);
    } finally {
      release();
    }
  }

  /** Wakes this feed for writes, its time limit, a client that has gone and a deleted database. Returns the undoing. */
  subscribe() {
    const end = () => {
      this.ended = true;
      this.wake();
    };
    const noteChange = () => {
      // Also for a change that the filter drops: on a busy database CouchDB's timeout never comes, and a client must
      // be seen to bound the wait itself.
      this.restartTimeout(end);
      this.changed = true;
      this.wake();
    };
    const writes = this.db.changes({ live: true, since: this.watchedFrom });
    writes.on('change', noteChange).on('error', end);
    this.res.on('close', end);
    this.db.on('destroyed', end);
    if (this.res.destroyed) end();
    this.restartTimeout(end);
    const pulse = this.startHeartbeat();
    return () => {
      clearTimeout(this.timer);
      clearInterval(pulse);
      writes.cancel();
      this.res.removeListener('close', end);
      this.db.removeListener('destroyed', end);
    };
  }

  restartTimeout(end) {
    clearTimeout(this.timer);
    if (this.heartbeat === undefined) this.timer = setTimeout(end, this.timeout);
  }

  startHeartbeat() {
    if (this.heartbeat === undefined) return undefined;
    const period = this.heartbeat > 1 ? this.heartbeat : LONGEST_WAIT_MS; // `true` asks for the default
    return setInterval(() => this.res.write('\n'), period);
  }

  isDone() {
    return this.ended || this.sent >= this.limit || (this.kind === 'longpoll' && this.sent > 0);
  }

  async sendUntilEnd() {
    this.changed = this.kind === 'continuous'; // a longpoll has just read everything up to `since`
    while (!this.isDone()) {
      if (!this.changed) await this.nextWake();
      else await this.sendBatch();
    }
  }

  nextWake() {
    return new Promise((resolve) => {
      this.wake = resolve;
    });
  }

  async sendBatch() {
    this.changed = false;
    const { results, last_seq: lastSeq } = await this.read(Math.min(ROWS_PER_READ, this.limit - this.sent));
    this.since = Math.max(this.since, lastSeq);
    for (const change of results) await this.sendRow(change);
    if (results.length > 0) this.changed = true; // there may be more behind a full batch
  }

  async sendRow(change) {
    const separator = this.kind === 'longpoll' && this.sent > 0 ? ',\n' : '';
    const terminator = this.kind === 'longpoll' ? '' : '\n';
    this.sent += 1;
    if (!this.res.write(separator + toRow(change) + terminator)) await this.drained();
  }

  drained() {
    return new Promise((resolve) => {
      this.res.once('drain', resolve);
      this.res.once('close', resolve);
    });
  }
}

async function changes(req, res) {
  try {
    const { update_seq: updateSeq } = await req.db.info();
    await new Feed(req, res, updateSeq).run();
  } catch (error) {
    // Once a row is out no status can be sent: a connection cut mid-body is what CouchDB gives as well.
    if (res.headersSent) res.destroy();
    else utils.sendError(res, error);
  }
}

/** To be called before express-pouchdb loads its routes: it then finds this one in the module cache. */
function mendChanges() {
  const route = require.resolve('express-pouchdb/lib/routes/changes');
  require.cache[route] = { exports: (app) => app.all('/:db/_changes', utils.jsonParser, changes) };
}

module.exports = { mendChanges };
