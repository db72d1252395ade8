// A scripted server. It reads and writes with the stock classes of the npm package `thrift`, and not with those of the
// client, so the tests compare the two.
import { createRequire } from 'node:module';
import { createServer } from 'node:net';

const require = createRequire(import.meta.url);
const { TBinaryProtocol, TFramedTransport, Thrift, Int64 } = require('thrift');
export const types = require('../dist/gen/pando_types.js');
export { Int64, Thrift };

const REQUESTS = {
  hello: 'HelloRequest',
  get: 'GetRequest',
  put: 'PutRequest',
  remove: 'RemoveRequest',
  increment: 'IncrementRequest',
  touch: 'TouchRequest',
  multiGet: 'MultiGetRequest',
  writeBatch: 'WriteBatchRequest',
  scan: 'ScanRequest',
  count: 'CountRequest',
  openSnapshot: 'OpenSnapshotRequest',
  renewSnapshot: 'RenewSnapshotRequest',
  releaseSnapshot: 'ReleaseSnapshotRequest',
  deleteRange: 'DeleteRangeRequest',
  watch: 'WatchRequest',
};

export const FEATURES = ['out_of_order_replies', 'idempotent_writes', 'clocks', 'sessions', 'slices'];

/** The Int64 of a bigint. */
export function i64(value) {
  return new Int64(BigInt.asUintN(64, value).toString(16).padStart(16, '0'));
}

/** The bigint of an Int64, or null. */
export function big(value) {
  return value === null ? null : value.buffer.readBigInt64BE(value.offset);
}

/** The bytes of a frame whose content `write` makes. */
export function frameOf(write) {
  let frame;
  const transport = new TFramedTransport(null, (bytes) => (frame = bytes));
  write(new TBinaryProtocol(transport));
  transport.flush();
  return frame;
}

/** A reply: `success` (a struct), `error` (fields of KvError), or `refusal` (a type of TApplicationException). */
export function replyFrame(method, sequence, { success, error, refusal, type = Thrift.MessageType.REPLY }) {
  return frameOf((out) => {
    out.writeMessageBegin(method, refusal === undefined ? type : Thrift.MessageType.EXCEPTION, sequence);
    if (refusal !== undefined) {
      // The stock class reads `type`, but writes `code`.
      Object.assign(new Thrift.TApplicationException(refusal, 'refused'), { code: refusal }).write(out);
    } else {
      const [struct, id] = success ? [success, 0] : [error && new types.KvError(error), 1];
      if (struct) {
        out.writeFieldBegin('', Thrift.Type.STRUCT, id);
        struct.write(out);
      }
      out.writeFieldStop();
    }
    out.writeMessageEnd();
  });
}

/** Decodes a request without its length. */
export function readCall(frame) {
  const input = new TBinaryProtocol(new TFramedTransport(frame));
  const { fname: method, rseqid: sequence } = input.readMessageBegin();
  const call = { method, sequence, context: new types.Context(), request: new types[REQUESTS[method]]() };
  for (;;) {
    const { ftype, fid } = input.readFieldBegin();
    if (ftype === Thrift.Type.STOP) return call;
    (fid === 1 ? call.context : call.request).read(input);
  }
}

/** One request, and what the script can do with it. */
class Call {
  constructor(server, socket, connection, fields) {
    Object.assign(this, fields, { server, socket, connection });
  }

  /** The name of a write, as text; null if it has none. */
  get name() {
    const { client_id: id, sequence } = this.context;
    return id === null ? null : `${id.toString('hex')}/${big(sequence)}`;
  }

  reply(success) {
    this.raw(replyFrame(this.method, this.sequence, { success }));
  }

  error(error) {
    this.raw(replyFrame(this.method, this.sequence, { error }));
  }

  raw(bytes) {
    this.socket.write(bytes);
  }

  cut() {
    this.socket.destroy();
  }
}

export class FakeServer {
  /** `script(call)` is called for each request but hello, for which `hello(call)` is, if it is given. */
  constructor(script, { features = FEATURES, accepted = ['out_of_order_replies'], nowMs = 1_000_000n, hello } = {}) {
    this.script = script;
    this.hello = hello ?? ((call) => call.reply(this.helloReply()));
    this.features = features;
    this.accepted = accepted;
    this.nowMs = nowMs;
    this.calls = [];
    this.accepts = 0;
    this.sockets = new Set();
    this.server = createServer((socket) => this.serve(socket));
  }

  helloReply() {
    const { features, accepted, nowMs } = this;
    return new types.HelloReply({ server_version: 'fake', features, accepted_features: accepted, now_ms: i64(nowMs) });
  }

  async start() {
    await new Promise((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    this.address = `127.0.0.1:${this.server.address().port}`;
    return this;
  }

  serve(socket) {
    const connection = (this.accepts += 1);
    this.sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => this.sockets.delete(socket));
    let input = Buffer.alloc(0);
    socket.on('data', (chunk) => {
      input = Buffer.concat([input, chunk]);
      while (input.length >= 4 && input.length >= 4 + input.readUInt32BE(0)) {
        const end = 4 + input.readUInt32BE(0);
        const call = new Call(this, socket, connection, readCall(input.subarray(4, end)));
        input = input.subarray(end);
        if (call.method === 'hello') this.hello(call);
        else this.calls.push(call) && this.script(call);
      }
    });
  }

  /** Requests of a method, so far. */
  of(method) {
    return this.calls.filter((call) => call.method === method);
  }

  closeConnections() {
    for (const socket of this.sockets) socket.destroy();
  }

  async stop() {
    this.closeConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }
}

/** Starts a server that stops after the test. */
export async function fakeServer(t, script, options) {
  const server = await new FakeServer(script, options).start();
  t.after(() => server.stop());
  return server;
}

/** Answers any request with something plausible. */
export function answer(call) {
  call.reply(plausible(call));
}

export function plausible({ method, request }) {
  switch (method) {
    case 'get':
      return new types.GetReply({ record: record(request.key) });
    case 'multiGet':
      return new types.MultiGetReply({ items: request.keys.map((key) => ({ record: record(key) })) });
    case 'count':
      return new types.CountReply({ count: i64(7n) });
    case 'increment':
      return new types.WriteResult({ applied: true, version: i64(5n), number: request.delta });
    case 'writeBatch':
      return new types.WriteBatchReply({ results: request.ops.map(() => ({ applied: true, version: i64(5n) })) });
    case 'deleteRange':
      return new types.DeleteRangeReply({ removed: i64(1n), cursor: Buffer.alloc(0) });
    case 'openSnapshot':
    case 'renewSnapshot':
      return new types.SnapshotReply({ snapshot: Buffer.from('token'), version: i64(9n), expires_at_ms: i64(10n) });
    case 'releaseSnapshot':
      return new types.ReleaseSnapshotReply({ existed: true });
    default:
      return new types.WriteResult({ applied: true, version: i64(5n), existed: false });
  }
}

/** A record whose value is its key. */
export function record(key) {
  return new types.Record({ found: true, value: key, version: i64(3n), expires_at_ms: i64(0n) });
}
