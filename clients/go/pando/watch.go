package pando

import (
	"context"
	"time"

	"pando.dev/go/internal/gen"
)

// How long a server is asked to wait for changes. A connection that is broken without a sign is noticed after so long
// and Config.Timeout.
const watchWait = 20 * time.Second

// So much of a call's time is left for the answer.
const watchMargin = 20 * time.Millisecond

// Change is a change of a record.
type Change struct {
	Key string
	// Version of the write.
	Version int64
	// Removed: the record was removed or has expired.
	Removed bool
}

// WatchOption is an option of Watch.
type WatchOption func(*watchOptions)

type watchOptions struct {
	position     []byte
	afterVersion int64
	limit        int
}

// AfterVersion watches from this version on (Snapshot.Version), which leaves no gap after a scan of the snapshot.
func AfterVersion(version int64) WatchOption {
	return func(o *watchOptions) { o.afterVersion = version }
}

// FromPosition continues after Watcher.Position of a watcher of the same prefix, perhaps in another process.
func FromPosition(position []byte) WatchOption {
	return func(o *watchOptions) { o.position = position }
}

// LimitChanges ends the watch after so many changes. Watcher.Position then continues after the last one.
func LimitChanges(changes int) WatchOption { return func(o *watchOptions) { o.limit = changes } }

// Watcher receives the changes of the records whose keys begin with a prefix, on a connection of its own.
//
// It receives every change after its starting point, or ErrFeedGone, perhaps some of them twice. The changes of keys with
// the same {tag}, and so those of one key, come in the order of their versions. Values do not come: read the record, which
// may have changed again. After ErrFeedGone, scan a new snapshot, and watch from its version (AfterVersion).
//
//	watcher, err := client.Watch(ctx, "fruit/")
//	if err != nil {
//		return err
//	}
//	defer watcher.Close()
//	for watcher.Next() {
//		fmt.Println(watcher.Change().Key)
//	}
//	return watcher.Err()
//
// Or, from Go 1.23 on:
//
//	for change, err := range watcher.All() {
type Watcher struct {
	ctx     context.Context
	calls   *calls
	request gen.WatchRequest
	own     ownConn
	limit   int
	asked   bool // it has waited for changes before

	changes  []Change
	at       int // of the current change in changes
	returned int
	position []byte // after the last page whose changes have all been returned
	next     []byte // after the current page
	err      error
}

// Watch begins to watch the keys that begin with prefix: from now on, unless an option says otherwise. The context is
// that of the whole watch: when it is cancelled, or its deadline passes, the watch ends. Close the watcher. A watcher of a
// Session is not a part of the session: what it tells of is not what the session has seen.
func (c *calls) Watch(ctx context.Context, prefix string, options ...WatchOption) (*Watcher, error) {
	o := watchOptions{limit: -1}
	for _, option := range options {
		option(&o)
	}
	w := &Watcher{ctx: ctx, calls: c, at: -1, limit: o.limit}
	w.request = gen.WatchRequest{Prefix: []byte(prefix), AfterVersion: o.afterVersion}
	w.position, w.next = o.position, o.position
	if len(o.position) == 0 && o.afterVersion == 0 {
		if !w.poll(0) { // from now on, and not from the first Next on
			w.own.drop()
			return nil, w.err
		}
		w.position = w.next
	}
	return w, nil
}

// Next waits for the next change. It returns false after LimitChanges, and after an error, which includes the end of the
// context.
func (w *Watcher) Next() bool {
	for w.err == nil {
		if w.at+1 < len(w.changes) {
			w.at++
			w.returned++
			if w.at+1 == len(w.changes) {
				w.position = w.next
			}
			return true
		}
		w.position = w.next
		if w.limit >= 0 && w.returned >= w.limit || !w.poll(watchWait) {
			return false
		}
	}
	return false
}

// Change returns the current change, after Next has returned true.
func (w *Watcher) Change() Change { return w.changes[w.at] }

// Err returns the error that has ended the watch, or nil. If the context has ended, it is an *Error with CodeDeadline or
// CodeCancelled.
func (w *Watcher) Err() error { return w.err }

// Position continues the watch, also in another process (FromPosition). What it continues after are all changes that have
// been returned, or fewer: some may come once more. It is exact after LimitChanges, and while Next waits. It is empty if
// the watch has begun with AfterVersion and no answer has come yet.
func (w *Watcher) Position() []byte { return w.position }

// Close closes the connection. Do not call it while Next runs; cancel the context to end that.
func (w *Watcher) Close() error {
	w.own.drop()
	if w.err == nil {
		w.err = &Error{Code: CodeClosed, Message: "the watcher is closed", Applied: AppliedNo, Method: "watch"}
	}
	return nil
}

// All returns the changes for a range clause. An error is the last pair.
func (w *Watcher) All() func(yield func(Change, error) bool) {
	return func(yield func(Change, error) bool) {
		for w.Next() {
			if !yield(w.Change(), nil) {
				return
			}
		}
		if w.err != nil {
			yield(Change{}, w.err)
		}
	}
}

// poll asks for changes, and waits for them as long as the context allows, but not longer than `wait`.
func (w *Watcher) poll(wait time.Duration) bool {
	ctx := w.ctx
	if until, has := ctx.Deadline(); has && time.Until(until) < wait {
		wait = time.Until(until)
		if w.asked && wait < 2*watchMargin {
			<-ctx.Done() // the call below says so
		}
	}
	if wait > 0 {
		// A deadline of the context may be far away, but an answer is late after `wait` and the time of a call.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait+w.calls.core.config.Timeout)
		defer cancel()
	}
	w.asked = w.asked || wait > 0
	op := &operation{method: "watch", own: &w.own}
	answer, err := invoke(ctx, w.calls.core, op,
		func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.WatchReply, error) {
			request := w.request
			request.Position = w.next
			if len(request.Position) > 0 {
				request.AfterVersion = 0
			}
			request.WaitMs = waitMs(wait, op.deadline)
			if w.limit >= 0 {
				request.LimitChanges = clamp(w.limit - w.returned)
			}
			return kv.Watch(ctx, with, &request)
		})
	if err != nil {
		w.err = err
		return false
	}
	w.changes, w.at = make([]Change, len(answer.Changes)), -1
	for i, change := range answer.Changes {
		w.changes[i] = Change{Key: string(change.Key), Version: change.Version, Removed: change.Removed}
	}
	w.next = answer.Position
	return true
}

func waitMs(wait time.Duration, deadline time.Time) int32 {
	if wait == 0 {
		return 0
	}
	if left := time.Until(deadline) - watchMargin; left < wait {
		wait = left
	}
	return budgetMs(wait)
}
