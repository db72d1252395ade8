import type { KvError, ReplyContext } from './gen/pando_types';

/** Was the write applied? For reads it is always `NO`. */
export type Applied = 'NO' | 'YES' | 'UNKNOWN';

/** Names of the codes of errors, by number. */
export const ErrorCode = {
  BAD_REQUEST: 1,
  TOO_LARGE: 2,
  UNAUTHENTICATED: 3,
  DENIED: 4,
  NOT_MASTER: 5,
  STALE_MAP: 6,
  MOVING: 7,
  OVERLOADED: 8,
  DEADLINE: 9,
  UNAVAILABLE: 10,
  TOO_STALE: 11,
  SNAPSHOT_GONE: 12,
  BAD_CURSOR: 13,
  TOKEN_MISMATCH: 14,
  DISK_FULL: 15,
  CORRUPT: 16,
  INTERNAL: 17,
  QUOTA_EXCEEDED: 18,
  CANCELLED: 19,
  FEED_GONE: 20,
  SESSION_LOST: 21,
  /** Of the client: no connection could be made, it was lost, or a reply on it could not be understood. */
  TRANSPORT: -1,
  /** Of the client: it is closed. */
  CLOSED: -2,
} as const;

/** @internal */
export interface ErrorFields {
  code: number;
  message: string;
  applied: Applied;
  retryable?: boolean;
  retryAfterMs?: number;
  cause?: unknown;
  context?: ReplyContext | null;
  master?: string;
}

const NAMES = new Map<number, string>(Object.entries(ErrorCode).map(([name, code]) => [code, name]));

const ADVICE = new Map<number, string>([
  [ErrorCode.BAD_REQUEST, 'Correct the request; it will be refused again as it is.'],
  [ErrorCode.TOO_LARGE, 'Split the request, or shorten the key or value; serverInfo() tells the limits.'],
  [ErrorCode.UNAUTHENTICATED, 'Check the identity and the credential of the client.'],
  [ErrorCode.DENIED, 'Ask the operator for the permission.'],
  [ErrorCode.OVERLOADED, 'Send less at a time, or try again later.'],
  [ErrorCode.DEADLINE, 'Give the call more time, or look why the cluster is slow.'],
  [ErrorCode.TOO_STALE, 'Try again, allow more staleness, or read at the level linearizable.'],
  [ErrorCode.SNAPSHOT_GONE, 'Open another snapshot and begin again.'],
  [
    ErrorCode.BAD_CURSOR,
    'Use the cursor only with the range, direction and snapshot that it came from, or begin again.',
  ],
  [ErrorCode.TOKEN_MISMATCH, 'Begin a new session; the token is of another cluster, or was altered.'],
  [ErrorCode.DISK_FULL, 'Free disk space on the nodes; reads go on meanwhile.'],
  [ErrorCode.CORRUPT, 'Tell the operator: a node found damaged data.'],
  [ErrorCode.INTERNAL, 'Report it with the log of the server; it is a fault of the server.'],
  [ErrorCode.QUOTA_EXCEEDED, 'Delete data, or ask the operator for a larger quota.'],
  [ErrorCode.FEED_GONE, 'Open a snapshot, scan it, and watch from its version.'],
  [ErrorCode.SESSION_LOST, 'Begin a new session.'],
  [ErrorCode.TRANSPORT, 'Check the addresses and whether the routers run.'],
  [ErrorCode.CLOSED, 'Make a new client.'],
  [ErrorCode.CANCELLED, 'The caller ended it; if it was a write, read what came of it.'],
]);

/**
 * The base of all errors that the server or the connection causes. Wrong types of arguments throw TypeError instead,
 * and numbers out of range RangeError, before anything is sent.
 */
export class PandoError extends Error {
  /** One of {@link ErrorCode}, or a number that this client does not know. */
  readonly code: number;
  /** The name of the code, such as `OVERLOADED`; `CODE_n` if this client does not know it. */
  readonly codeName: string;
  /** Was the write applied? */
  readonly applied: Applied;
  /**
   * The same call may succeed later, and making it again does no harm. So it is false for a write of unknown outcome (but
   * not for `deleteRange`). The client has already repeated the call until its time was over, if it could.
   */
  readonly retryable: boolean;
  /** The server asks to wait so long before the next try; 0 = it does not say. */
  readonly retryAfterMs: number;
  /** What to do about it, in one sentence. */
  readonly advice: string;
  /** @internal What the server sent along. */
  declare readonly context: ReplyContext | null;
  /** @internal The address of the node to ask instead; empty = the server names none. */
  declare readonly master: string;

  /** @internal */
  constructor(fields: ErrorFields) {
    super(fields.message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.name = new.target.name;
    this.code = fields.code;
    this.codeName = NAMES.get(fields.code) ?? `CODE_${fields.code}`;
    this.applied = fields.applied;
    this.retryable = fields.retryable ?? false;
    this.retryAfterMs = fields.retryAfterMs ?? 0;
    this.advice = ADVICE.get(fields.code) ?? (this.retryable ? 'Try again later.' : 'Look at the message.');
    Object.defineProperty(this, 'context', { value: fields.context ?? null, enumerable: false });
    Object.defineProperty(this, 'master', { value: fields.master ?? '', enumerable: false });
  }
}

/** The request is wrong, too large, or carries a cursor or token that does not belong to it. */
export class BadRequestError extends PandoError {}

/** The caller is not who it says, or may not do this. */
export class AccessDeniedError extends PandoError {}

/** The server cannot serve the request now. The client repeats such calls until their time is over. */
export class UnavailableError extends PandoError {}

/** No connection could be made, or it was lost. `applied` is NO if the request was certainly not sent. */
export class TransportError extends UnavailableError {}

/** A reply that this client cannot understand. The connection was closed, and the outcome is unknown. */
export class ProtocolError extends TransportError {}

/** The time of the call is over. `cause` is what the last try failed with, `tries` the number of tries. */
export class DeadlineError extends PandoError {
  /** How often the request was tried. */
  readonly tries: number;

  /** @internal */
  constructor(fields: Omit<ErrorFields, 'code'> & { tries: number }) {
    super({ ...fields, code: ErrorCode.DEADLINE, retryable: true });
    this.tries = fields.tries;
  }
}

/** The snapshot has expired, was released, or was lost in a restart. */
export class SnapshotGoneError extends PandoError {}

/** The changes after this position are no longer kept. */
export class FeedGoneError extends PandoError {}

/** What the session has seen was lost, or it is too old to tell. */
export class SessionLostError extends PandoError {}

/** A node has no disk space left for writes. */
export class DiskFullError extends PandoError {}

/** A node found damaged data. */
export class CorruptError extends PandoError {}

/** A fault of the server. */
export class InternalError extends PandoError {}

/** The AbortSignal of the call was aborted; `cause` is its reason. A write that was sent may have taken effect. */
export class AbortError extends PandoError {}

/** The client is closed. */
export class ClientClosedError extends PandoError {}

const CLASSES = new Map<number, typeof PandoError>([
  [ErrorCode.BAD_REQUEST, BadRequestError],
  [ErrorCode.TOO_LARGE, BadRequestError],
  [ErrorCode.BAD_CURSOR, BadRequestError],
  [ErrorCode.TOKEN_MISMATCH, BadRequestError],
  [ErrorCode.UNAUTHENTICATED, AccessDeniedError],
  [ErrorCode.DENIED, AccessDeniedError],
  [ErrorCode.NOT_MASTER, UnavailableError],
  [ErrorCode.STALE_MAP, UnavailableError],
  [ErrorCode.MOVING, UnavailableError],
  [ErrorCode.OVERLOADED, UnavailableError],
  [ErrorCode.UNAVAILABLE, UnavailableError],
  [ErrorCode.TOO_STALE, UnavailableError],
  [ErrorCode.SNAPSHOT_GONE, SnapshotGoneError],
  [ErrorCode.FEED_GONE, FeedGoneError],
  [ErrorCode.SESSION_LOST, SessionLostError],
  [ErrorCode.DISK_FULL, DiskFullError],
  [ErrorCode.CORRUPT, CorruptError],
  [ErrorCode.INTERNAL, InternalError],
]);

const APPLIED: readonly Applied[] = ['UNKNOWN', 'NO', 'YES'];

/** @internal What a KvError of the server is to the caller. */
export function fromKvError(error: KvError, isWrite: boolean): PandoError {
  const fields = {
    code: error.code ?? 0,
    message: error.message ?? '',
    applied: isWrite ? (APPLIED[error.applied ?? 0] ?? 'UNKNOWN') : 'NO',
    retryable: error.retryable ?? false,
    retryAfterMs: error.retry_after_ms ?? 0,
    context: error.context,
    master: error.master ?? '',
  };
  return new (CLASSES.get(fields.code) ?? PandoError)(fields);
}

/**
 * Types of TApplicationException: unknown method, invalid type of message, protocol error, invalid transform, invalid
 * protocol, unsupported type of client. A server finds them out before it does anything.
 */
const REFUSALS: ReadonlySet<number> = new Set([1, 2, 7, 8, 9, 10]);
/** Wrong name of a method, bad sequence ID, missing result. They belong to another request. */
const NO_ANSWERS: ReadonlySet<number> = new Set([3, 4, 5]);

/** @internal What Thrift's own exception is to the caller. After ProtocolError, the connection must be closed. */
export function fromRefusal(
  address: string,
  refusal: { type: number; message: string | null },
  isWrite: boolean,
): PandoError {
  const { type } = refusal;
  const message = `${address} refused the request: ${refusal.message || `exception of type ${type}`}`;
  if (REFUSALS.has(type)) return new BadRequestError({ code: ErrorCode.BAD_REQUEST, message, applied: 'NO' });
  if (NO_ANSWERS.has(type)) return protocolError(message);
  return new InternalError({ code: ErrorCode.INTERNAL, message, applied: isWrite ? 'UNKNOWN' : 'NO' });
}

/** @internal The same error, but its write may have been applied by an earlier try. */
export function withUnknownOutcome(error: PandoError): PandoError {
  const { code, message, retryable, retryAfterMs } = error;
  return new (CLASSES.get(code) ?? PandoError)({
    code,
    message: `${message} (an earlier try may have been applied)`,
    applied: 'UNKNOWN',
    retryable,
    retryAfterMs,
    cause: error,
  });
}

/**
 * @internal Says of a write of unknown outcome that the caller must not make it again: another call has another name.
 * Only before the caller has the error.
 */
export function forbidRepeat(error: PandoError): void {
  if (error.applied === 'UNKNOWN') (error as { retryable: boolean }).retryable = false;
}

/** @internal */
export function transportError(message: string, sent: boolean, cause?: unknown): TransportError {
  const fields = { code: ErrorCode.TRANSPORT, message, retryable: true, cause };
  return new TransportError({ ...fields, applied: sent ? 'UNKNOWN' : 'NO' });
}

/** @internal */
export function protocolError(message: string, cause?: unknown): ProtocolError {
  return new ProtocolError({ code: ErrorCode.TRANSPORT, message, applied: 'UNKNOWN', retryable: true, cause });
}

/** @internal */
export function closedError(applied: Applied = 'NO'): ClientClosedError {
  return new ClientClosedError({ code: ErrorCode.CLOSED, message: 'the client is closed', applied });
}

/** @internal */
export function abortError(signal: AbortSignal, applied: Applied = 'NO'): AbortError {
  const fields = { code: ErrorCode.CANCELLED, message: 'the call was aborted by its signal', applied };
  return new AbortError({ ...fields, cause: signal.reason });
}

/** @internal Throws if a reply has not one item for each that was asked for. */
export function checkLength(what: string, asked: number, items?: readonly unknown[] | null): void {
  const answered = items?.length ?? 0;
  if (answered !== asked) throw protocolError(`the reply has ${answered} results for ${asked} ${what}`);
}
