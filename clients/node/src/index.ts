/**
 * The Node.js client of Pando, a replicated, ordered key-value store.
 *
 * @packageDocumentation
 */
export { Client, Session } from './client';
export type { ClientOptions, ServerInfo, ServerLimits } from './client';
export { KvOperations } from './operations';
export type { DeleteRangeOptions } from './operations';
export { ReadOperations } from './reader';
export type { Aggregate, RangePart, RangeReadOptions } from './reader';
export { Batch } from './batch';
export type { BatchOp, BatchOptions, KeyCondition } from './batch';
export type { BatchOpResult, BatchResult, FailedCondition, WriteResult } from './results';
export { Scan } from './scan';
export type { Row, ScanOptions, ScanPage } from './scan';
export { Snapshot } from './snapshot';
export type { SnapshotOptions } from './snapshot';
export { Watch } from './watch';
export type { Change, WatchOptions } from './watch';
export type {
  CallOptions,
  ConditionOptions,
  ExpiryOptions,
  IncrementOptions,
  PutOptions,
  RangeOptions,
  ReadLevel,
  ReadOptions,
  RemoveOptions,
  SnapshotReadOptions,
  SnapshotRef,
  TouchOptions,
  WriteLevel,
  WriteOptions,
} from './options';
export type { Bytes, Integer, KvRecord } from './values';
export {
  AbortError,
  AccessDeniedError,
  BadRequestError,
  ClientClosedError,
  CorruptError,
  DeadlineError,
  DiskFullError,
  ErrorCode,
  FeedGoneError,
  InternalError,
  PandoError,
  ProtocolError,
  SessionLostError,
  SnapshotGoneError,
  TransportError,
  UnavailableError,
} from './errors';
export type { Applied } from './errors';
