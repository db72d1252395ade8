package pando

import (
	"context"
	"time"

	"pando.dev/go/internal/gen"
)

// Session has the calls of a Client. Its reads, at any replica, see all that the session has written and read before
// (LevelSession), unless they name another level. It does one call after the other: a call waits until the one before it
// has ended. A session need not be closed.
//
// After ErrSessionLost, begin another one.
type Session struct{ calls }

// Session begins a session.
func (c *Client) Session() *Session {
	return &Session{calls{reads{core: c.core, session: &sessionState{turn: make(chan struct{}, 1)}}}}
}

// sessionState is guarded by `turn`.
type sessionState struct {
	turn  chan struct{}
	token []byte
	// linearizable: the session has seen more than a token can say, so its reads need the master.
	linearizable bool
}

func (s *sessionState) lock(ctx context.Context, deadline time.Time) error {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return errSessionBusy
}

func (s *sessionState) unlock() { <-s.turn }

// saw takes the token of a reply. With `mayLackIt`, a reply without one says nothing; otherwise it says that the token has
// become too large.
func (s *sessionState) saw(context *gen.ReplyContext, mayLackIt bool) {
	switch {
	case context != nil && len(context.Session) > 0:
		s.token = context.Session
	case !mayLackIt && len(s.token) > 0:
		s.linearizable = true
	}
}

func (s *sessionState) readLevel() Level {
	if s.linearizable {
		return LevelLinearizable
	}
	return LevelSession
}
