package pando

import (
	"context"
	"sync"
	"time"

	"pando.dev/go/internal/gen"
)

// defaultSnapshotTTL is that of the servers.
const defaultSnapshotTTL = time.Minute

// Snapshot shows all records as they were at one moment. It has the reads of a Client. A goroutine renews it at a third
// of its lifetime until Close, which must be called: a snapshot keeps replaced pages on the disks of the servers.
//
// When it is gone, because the servers were not reached in time or have restarted, its reads return ErrSnapshotGone.
type Snapshot struct {
	reads
	version int64
	ttl     time.Duration
	stop    context.CancelFunc
	stopped chan struct{}

	mu        sync.Mutex
	expiresAt time.Time
	closed    bool
}

// SnapshotOption is an option of OpenSnapshot.
type SnapshotOption func(*snapshotOptions)

type snapshotOptions struct {
	ttl   time.Duration
	renew bool
}

// SnapshotTTL is the lifetime of the snapshot unless it is renewed (default: a minute), in milliseconds on the wire.
func SnapshotTTL(ttl time.Duration) SnapshotOption {
	return func(o *snapshotOptions) { o.ttl = ttl }
}

// NoRenewal leaves it to the caller to renew the snapshot (Snapshot.Renew).
func NoRenewal() SnapshotOption { return func(o *snapshotOptions) { o.renew = false } }

// OpenSnapshot opens a snapshot. If it holds a write, it holds all writes that were acknowledged before that one. Close
// it. The context is that of this call only; the snapshot outlives it.
func (c *calls) OpenSnapshot(ctx context.Context, options ...SnapshotOption) (*Snapshot, error) {
	o := snapshotOptions{ttl: defaultSnapshotTTL, renew: true}
	for _, option := range options {
		option(&o)
	}
	answer, err := invoke(ctx, c.core, &operation{method: "openSnapshot", session: c.session, withoutToken: true},
		func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.SnapshotReply, error) {
			return kv.OpenSnapshot(ctx, with, &gen.OpenSnapshotRequest{TTLMs: clamp(int(o.ttl.Milliseconds()))})
		})
	if err != nil {
		return nil, err
	}
	s := &Snapshot{reads: c.reads, version: answer.Version, ttl: o.ttl, stopped: make(chan struct{}),
		expiresAt: timeFrom(answer.ExpiresAtMs)}
	s.snapshot = answer.Snapshot
	var renewal context.Context
	renewal, s.stop = context.WithCancel(context.Background())
	if o.renew && o.ttl > 0 {
		go s.keep(renewal)
	} else {
		close(s.stopped)
	}
	return s, nil
}

// Token names the snapshot for InSnapshot and Since, also in other processes.
func (s *Snapshot) Token() []byte { return s.snapshot }

// Version: no write in the snapshot has a higher version, no later one a lower. AfterVersion and MaxVersion take it.
func (s *Snapshot) Version() int64 { return s.version }

// ExpiresAt is when the snapshot ends unless it is renewed.
func (s *Snapshot) ExpiresAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.expiresAt
}

// Renew extends the lifetime to `ttl` from now on; 0 = that with which it was opened. Only snapshots with NoRenewal need
// it. No snapshot outlives the age limit of the servers.
func (s *Snapshot) Renew(ctx context.Context, ttl time.Duration) error {
	if ttl == 0 {
		ttl = s.ttl
	}
	answer, err := invoke(ctx, s.core, &operation{method: "renewSnapshot"},
		func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.SnapshotReply, error) {
			return kv.RenewSnapshot(ctx, with,
				&gen.RenewSnapshotRequest{Snapshot: s.snapshot, TTLMs: clamp(int(ttl.Milliseconds()))})
		})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expiresAt = timeFrom(answer.ExpiresAtMs)
	return nil
}

// Close ends the renewal and releases the snapshot. It may take Config.Timeout. A second Close does nothing.
func (s *Snapshot) Close() error {
	_, err := s.Release(context.Background())
	return err
}

// Release is Close with a context. It reports whether the servers still had the snapshot.
func (s *Snapshot) Release(ctx context.Context) (existed bool, err error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false, nil
	}
	s.closed = true
	s.mu.Unlock()
	s.stop()
	<-s.stopped
	answer, err := invoke(ctx, s.core, &operation{method: "releaseSnapshot"},
		func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.ReleaseSnapshotReply, error) {
			return kv.ReleaseSnapshot(ctx, with, &gen.ReleaseSnapshotRequest{Snapshot: s.snapshot})
		})
	if err != nil {
		return false, err
	}
	return answer.Existed, nil
}

// keep renews the snapshot until it is closed, or gone.
func (s *Snapshot) keep(ctx context.Context) {
	defer close(s.stopped)
	timer := time.NewTicker(s.ttl / 3)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		case <-s.core.pool.closed:
			return
		}
		// After an error that may pass, it is tried again at the next third.
		if err := s.Renew(ctx, 0); isGone(err) {
			return
		}
	}
}

func isGone(err error) bool {
	e, ok := err.(*Error)
	return ok && !e.Retryable && e.Code != CodeDeadline
}
