import type { BatchTries } from './batch_tries';
import type { CallOptions, ReadLevel, WriteLevel } from './options';
import type { ConnectionSource } from './pool';
import type { Method, ReplyOf, RequestOf } from './protocol';

/** One call as the surface makes it; what makes it adds levels, tokens, and defaults. */
export interface Invocation<M extends Method> {
  readonly method: M;
  readonly request: RequestOf<M> | ((leftMs: number) => RequestOf<M>);
  /** Which default level it has; `none` if it has no level. */
  readonly kind: 'read' | 'write' | 'none';
  readonly options: CallOptions & { level?: ReadLevel | WriteLevel; maxStalenessMs?: number };
  readonly needs?: string;
  readonly check?: (reply: ReplyOf<M>) => void;
  readonly batch?: BatchTries;
  /** Instead of the client's connections. */
  readonly source?: ConnectionSource;
}

export interface Invoker {
  /** Of calls that say nothing else. */
  readonly timeoutMs: number;
  invoke<M extends Method>(invocation: Invocation<M>): Promise<ReplyOf<M>>;
}
