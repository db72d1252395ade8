/**
 * The binary protocol over whole frames: encodes calls, decodes replies.
 *
 * The generated structs run on a subclass of the library's TBinaryProtocol that differs in four things. An i64 is a
 * bigint (the library's Int64 writes the wrong eight bytes if it is a view into a longer buffer, and its arithmetic
 * loses bits). Bytes that are read are copies, so that a small value does not keep a whole frame alive and no two
 * results share memory. A frame is built in one buffer, and may hold any Uint8Array. Lengths are checked against the
 * frame before anything is built from them.
 */
import { TBinaryProtocol, Thrift } from 'thrift';
import * as wire from './gen/pando_types';

const VERSION_1 = 0x80010000;
const INITIAL_BYTES = 512;

/** What the generated structs have in common. */
export interface WireStruct {
  read(input: unknown): void;
  write(output: unknown): void;
}

/** Every method of the service has one request and one reply; these are their types. */
export interface Methods {
  hello: [wire.HelloRequest, wire.HelloReply];
  get: [wire.GetRequest, wire.GetReply];
  put: [wire.PutRequest, wire.WriteResult];
  remove: [wire.RemoveRequest, wire.WriteResult];
  increment: [wire.IncrementRequest, wire.WriteResult];
  touch: [wire.TouchRequest, wire.WriteResult];
  multiGet: [wire.MultiGetRequest, wire.MultiGetReply];
  writeBatch: [wire.WriteBatchRequest, wire.WriteBatchReply];
  scan: [wire.ScanRequest, wire.ScanReply];
  count: [wire.CountRequest, wire.CountReply];
  aggregate: [wire.AggregateRequest, wire.AggregateReply];
  splitRange: [wire.SplitRangeRequest, wire.SplitRangeReply];
  openSnapshot: [wire.OpenSnapshotRequest, wire.SnapshotReply];
  renewSnapshot: [wire.RenewSnapshotRequest, wire.SnapshotReply];
  releaseSnapshot: [wire.ReleaseSnapshotRequest, wire.ReleaseSnapshotReply];
  deleteRange: [wire.DeleteRangeRequest, wire.DeleteRangeReply];
  watch: [wire.WatchRequest, wire.WatchReply];
}

export type Method = keyof Methods;
export type RequestOf<M extends Method> = Methods[M][0];
export type ReplyOf<M extends Method> = Methods[M][1];

/** Methods that change records. Of all others, nothing is ever applied. */
export const WRITES: ReadonlySet<Method> = new Set([
  'put',
  'remove',
  'increment',
  'touch',
  'writeBatch',
  'deleteRange',
]);

const REPLIES: { [M in Method]: new () => ReplyOf<M> } = {
  hello: wire.HelloReply,
  get: wire.GetReply,
  put: wire.WriteResult,
  remove: wire.WriteResult,
  increment: wire.WriteResult,
  touch: wire.WriteResult,
  multiGet: wire.MultiGetReply,
  writeBatch: wire.WriteBatchReply,
  scan: wire.ScanReply,
  count: wire.CountReply,
  aggregate: wire.AggregateReply,
  splitRange: wire.SplitRangeReply,
  openSnapshot: wire.SnapshotReply,
  renewSnapshot: wire.SnapshotReply,
  releaseSnapshot: wire.ReleaseSnapshotReply,
  deleteRange: wire.DeleteRangeReply,
  watch: wire.WatchReply,
};

/** A frame that is no message of this protocol. */
export class MalformedFrame extends Error {
  override name = 'MalformedFrame';
}

/** Writes one frame: a length of four bytes, and a message. */
class FrameEncoder extends TBinaryProtocol {
  private buffer = Buffer.allocUnsafe(INITIAL_BYTES);
  private length = 4;

  constructor() {
    super(null);
  }

  private extend(bytes: number): number {
    const offset = this.length;
    this.length += bytes;
    if (this.length > this.buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(this.length, this.buffer.length * 2));
      this.buffer.copy(larger, 0, 0, offset);
      this.buffer = larger;
    }
    return offset;
  }

  writeMessageBegin(name: string, type: number, sequence: number): void {
    const at = this.extend(4);
    this.buffer.writeUInt32BE(VERSION_1 + type, at);
    this.writeString(name);
    this.writeI32(sequence);
  }

  writeByte(value: number): void {
    const at = this.extend(1);
    this.buffer[at] = value;
  }

  writeBool(value: boolean): void {
    this.writeByte(value ? 1 : 0);
  }

  // `extend` may replace the buffer, so it comes first.
  writeI16(value: number): void {
    const at = this.extend(2);
    this.buffer.writeInt16BE(value, at);
  }

  writeI32(value: number): void {
    const at = this.extend(4);
    this.buffer.writeInt32BE(value, at);
  }

  writeI64(value: bigint): void {
    const at = this.extend(8);
    this.buffer.writeBigInt64BE(value, at);
  }

  writeString(value: string): void {
    this.writeBinary(Buffer.from(value, 'utf8'));
  }

  writeBinary(value: Uint8Array): void {
    this.writeI32(value.length);
    const at = this.extend(value.length);
    this.buffer.set(value, at);
  }

  writeListBegin(type: number, size: number): void {
    this.writeByte(type);
    this.writeI32(size);
  }

  writeStructBegin(): void {}
  writeStructEnd(): void {}
  writeFieldEnd(): void {}
  writeListEnd(): void {}

  finish(): Buffer {
    this.buffer.writeUInt32BE(this.length - 4, 0);
    return this.buffer.subarray(0, this.length);
  }
}

/** Reads one frame, without its length. */
class FrameDecoder extends TBinaryProtocol {
  private position = 0;

  constructor(private readonly frame: Buffer) {
    super(null);
  }

  get left(): number {
    return this.frame.length - this.position;
  }

  private take(bytes: number): number {
    if (bytes < 0 || bytes > this.left) {
      throw new MalformedFrame(
        `${bytes} bytes are wanted at ${this.position} of a frame of ${this.frame.length} bytes`,
      );
    }
    const at = this.position;
    this.position += bytes;
    return at;
  }

  readMessageBegin(): { name: string; type: number; sequence: number } {
    const version = this.frame.readUInt32BE(this.take(4));
    if ((version & 0xffff0000) >>> 0 !== VERSION_1) throw new MalformedFrame(`it begins with ${version.toString(16)}`);
    const name = this.readString();
    return { name, type: version & 0xff, sequence: this.readI32() };
  }

  readByte(): number {
    return this.frame.readInt8(this.take(1));
  }

  readBool(): boolean {
    return this.readByte() !== 0;
  }

  readI16(): number {
    return this.frame.readInt16BE(this.take(2));
  }

  readI32(): number {
    return this.frame.readInt32BE(this.take(4));
  }

  readI64(): bigint {
    return this.frame.readBigInt64BE(this.take(8));
  }

  readDouble(): number {
    return this.frame.readDoubleBE(this.take(8));
  }

  readBinary(): Buffer {
    const length = this.readI32();
    const at = this.take(length);
    return Buffer.from(this.frame.subarray(at, at + length));
  }

  readString(): string {
    const length = this.readI32();
    const at = this.take(length);
    return this.frame.toString('utf8', at, at + length);
  }

  readListBegin(): { etype: number; size: number } {
    const etype = this.readByte();
    const size = this.readI32();
    if (size < 0 || size > this.left) throw new MalformedFrame(`a list of ${size} elements does not fit`);
    return { etype, size };
  }

  readStructBegin(): { fname: string } {
    return { fname: '' };
  }

  readStructEnd(): void {}
  readFieldEnd(): void {}
  readListEnd(): void {}
  readMessageEnd(): void {}
}

/** The frame of one call. Throws RangeError if a number does not fit its field. */
export function encodeCall<M extends Method>(
  method: M,
  sequence: number,
  context: wire.Context,
  request: RequestOf<M>,
): Buffer {
  const out = new FrameEncoder();
  out.writeMessageBegin(method, Thrift.MessageType.CALL, sequence);
  const { STRUCT } = Thrift.Type;
  out.writeFieldBegin('context', STRUCT, 1);
  (context as unknown as WireStruct).write(out);
  out.writeFieldBegin('request', STRUCT, 2);
  (request as unknown as WireStruct).write(out);
  out.writeFieldStop();
  return out.finish();
}

/** What a frame from the server holds. `read` decodes its body, once. */
export interface ReplyFrame {
  readonly name: string;
  readonly sequence: number;
  read(): ReplyBody;
}

/** Exactly one of the three is set. */
export interface ReplyBody {
  success?: unknown;
  error?: wire.KvError;
  /** The server could not decode the request, or does not have the method. */
  refusal?: { type: number; message: string };
}

/** Decodes the head of a reply. Throws MalformedFrame; so does `read` of the result. */
export function decodeReply(frame: Buffer): ReplyFrame {
  const input = new FrameDecoder(frame);
  const { name, type, sequence } = input.readMessageBegin();
  return { name, sequence, read: () => readBody(input, name, type) };
}

function readBody(input: FrameDecoder, name: string, type: number): ReplyBody {
  const body = decoding(() => {
    if (type === Thrift.MessageType.EXCEPTION) {
      const refusal = new Thrift.TApplicationException();
      refusal.read(input);
      return { refusal: { type: refusal.type, message: refusal.message } };
    }
    if (type !== Thrift.MessageType.REPLY) throw new MalformedFrame(`its message type is ${type}`);
    return readResult(input, name as Method);
  });
  if (input.left > 0) throw new MalformedFrame(`${input.left} bytes follow its end`);
  return body;
}

/** The result struct of a method: field 0 is the reply, field 1 the error. */
function readResult(input: FrameDecoder, method: Method): ReplyBody {
  const body: ReplyBody = {};
  for (;;) {
    const { ftype, fid } = input.readFieldBegin();
    if (ftype === Thrift.Type.STOP) break;
    if (ftype === Thrift.Type.STRUCT && (fid === 0 || fid === 1)) {
      const struct = fid === 0 ? new REPLIES[method]() : new wire.KvError();
      (struct as unknown as WireStruct).read(input);
      if (fid === 0) body.success = struct;
      else body.error = struct as wire.KvError;
    } else {
      input.skip(ftype);
    }
  }
  if (!body.success === !body.error) throw new MalformedFrame('it has neither a reply nor an error, or both');
  return body;
}

// Whatever the bytes make the generated code throw (an unknown type, a stack overflow by nesting), they are to blame.
function decoding<T>(decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    if (error instanceof MalformedFrame) throw error;
    throw new MalformedFrame(`it cannot be decoded: ${error instanceof Error ? error.message : String(error)}`);
  }
}
