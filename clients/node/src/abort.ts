/**
 * Callbacks of AbortSignals. A signal has one listener, however many calls wait for it: Node.js warns of a leak when
 * there are more than ten.
 */
const callbacksOf = new WeakMap<AbortSignal, Set<() => void>>();

function fire(this: AbortSignal): void {
  const callbacks = [...(callbacksOf.get(this) ?? [])];
  callbacksOf.delete(this);
  for (const callback of callbacks) callback();
}

/** Calls back once when the signal is aborted, unless what it returns is called first. Not if it is aborted already. */
export function onAbort(signal: AbortSignal | undefined, callback: () => void): () => void {
  if (!signal) return () => {};
  const callbacks = callbacksOf.get(signal) ?? new Set();
  if (callbacks.size === 0) {
    callbacksOf.set(signal, callbacks);
    signal.addEventListener('abort', fire, { once: true });
  }
  callbacks.add(callback);
  return () => {
    if (!callbacks.delete(callback) || callbacks.size > 0 || callbacksOf.get(signal) !== callbacks) return;
    callbacksOf.delete(signal);
    signal.removeEventListener('abort', fire);
  };
}
