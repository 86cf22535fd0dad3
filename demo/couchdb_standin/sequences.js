/**
 * Sequences as CouchDB has them since version 2: opaque texts.
 *
 * PouchDB's are plain integers. A client that compared or counted them would work against those and break against a
 * real server, so no bare integer leaves this process, and none is taken back.
 */
'use strict';

const SUFFIX = '-g1AAAA';

const toSequence = (number) => `${number}${SUFFIX}`;

/** The number inside a `since`; 0 stands for the beginning. Undefined for what CouchDB refuses with a 400. */
function fromSequence(since) {
  if (since === 0 || since === '0') return 0;
  const [, number] = /^(\d+)-/.exec(since) || [];
  return number === undefined ? undefined : Number(number);
}

module.exports = { toSequence, fromSequence };
