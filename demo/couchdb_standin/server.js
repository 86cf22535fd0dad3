/**
 * A CouchDB-compatible server for machines without CouchDB: the demo, the tests and the benchmarks run against it.
 *
 *     node server.js [--port N] [--data DIR]      environment: COUCHDB_USER, COUCHDB_PASSWORD
 *
 * express-pouchdb does the work, and the modules beside this one correct where it differs; its internals are
 * patched for that, so its version is pinned. Prints {"url": …} when it listens (port 0, the default, lets the kernel
 * choose), and ends on SIGTERM or when its stdin is closed, that is, with its parent. In memory without --data;
 * with it in LevelDB, where an acknowledged write survives a SIGKILL.
 */
'use strict';

const fs = require('fs');
const http = require('http');
const { EventEmitter } = require('events');
const { parseArgs } = require('util');
const vm = require('vm');

const express = require('express');
const utils = require('express-pouchdb/lib/utils');
const { mendChanges } = require('./changes');
const { mendRequests } = require('./requests');
const { mendResponses } = require('./responses');
const { mendViews } = require('./views');

const PouchDB = require('pouchdb').plugin(require('pouchdb-adapter-memory')); // beside LevelDB, its default

const ADMIN = process.env.COUCHDB_USER || 'admin';
const PASSWORD = process.env.COUCHDB_PASSWORD || 'secret';

// Compression never flushes a feed; the others are pages and rewrites that only slow each request down.
const UNWANTED_PARTS = ['compression', 'routes/fauxton', 'disk-size', 'routes/vhosts'];

/**
 * PouchDB runs a map function in a new context for every document, which is most of the cost of a view. Its code
 * brings all that it needs, so one context serves them all.
 */
function shareViewContext() {
  const { runInNewContext } = vm;
  const shared = vm.createContext();
  vm.runInNewContext = (code, ...rest) =>
    rest.length > 0 ? runInNewContext(code, ...rest) : vm.runInContext(code, shared);
}

function storeIn(directory) {
  if (!directory) return PouchDB.defaults({ adapter: 'memory' });
  fs.mkdirSync(directory, { recursive: true });
  return PouchDB.defaults({ prefix: `${directory}/` });
}

function createApp(store) {
  mendResponses(utils);
  mendChanges();
  shareViewContext();
  mendViews(PouchDB);
  const couch = require('express-pouchdb')(store, {
    inMemoryConfig: true,
    logPath: '/dev/null',
    overrideMode: { exclude: UNWANTED_PARTS },
  });
  couch.couchConfig.set('admins', ADMIN, PASSWORD, () => {});
  return express().disable('x-powered-by').use(mendRequests(store, ADMIN), couch);
}

function listen(app, port) {
  // Longer than any client keeps an idle connection: else a request could meet the closing of its connection.
  const server = http.createServer({ keepAliveTimeout: 65_000 }, app);
  server.listen(port, '127.0.0.1', () => {
    console.log(JSON.stringify({ url: `http://127.0.0.1:${server.address().port}` }));
  });
}

function endWithParent() {
  const end = () => process.exit(0);
  process.on('SIGTERM', end);
  process.stdin.on('end', end).on('error', end).resume();
}

// express-pouchdb leaves some promises alone (a request with a bad `filter`, say): one bad request, not the end.
process.on('unhandledRejection', (error) => console.error('unhandled rejection:', error));
EventEmitter.defaultMaxListeners = 0; // every open feed listens to its database

const { values } = parseArgs({ options: { port: { type: 'string', default: '0' }, data: { type: 'string' } } });
endWithParent();
listen(createApp(storeIn(values.data)), Number(values.port));
