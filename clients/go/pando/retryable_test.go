package pando

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"pando.dev/go/internal/gen"
)

// A caller that obeys Retryable makes another call, which has another name. So it must not do that if the first one may
// have been applied.
func TestUnknownOutcomeIsNotRetryable(t *testing.T) {
	busy := refuses(gen.KvError{Code: gen.OVERLOADED, Applied: gen.APPLIED_NO, Retryable: true})
	unknown := refuses(gen.KvError{Code: gen.UNAVAILABLE, Applied: gen.APPLIED_UNKNOWN, Retryable: true})
	for name, test := range map[string]struct {
		script    []answer
		level     Level
		retryable bool
	}{
		"no answer":         {[]answer{hangs}, LevelQuorum, false},
		"cut":               {[]answer{cuts}, LevelQuorum, false},
		"cut, then refused": {[]answer{cuts, busy}, LevelQuorum, false},
		"refused":           {[]answer{busy}, LevelQuorum, true},
		"without a name":    {[]answer{unknown}, LevelOne, false},
	} {
		t.Run(name, func(t *testing.T) {
			client := newTestClient(t, Config{WriteLevel: test.level}, newFakeServer(t, test.script...))
			ctx, cancel := context.WithTimeout(background, 100*time.Millisecond)
			defer cancel()
			_, err := client.Increment(ctx, "k", 1)
			var e *Error
			if !errors.As(err, &e) || e.Retryable != test.retryable || (e.Applied == AppliedUnknown) == test.retryable {
				t.Fatal(e.Retryable, err)
			}
		})
	}
	client := newTestClient(t, Config{Timeout: 100 * time.Millisecond}, newFakeServer(t, cuts))
	var e *Error
	if _, err := client.DeleteRange(background, Prefix("k")); !errors.As(err, &e) || !e.Retryable {
		t.Fatal("to repeat DeleteRange does no harm:", err)
	}
}

func TestUnknownOutcomeOfAnOpIsNotRetryable(t *testing.T) {
	failed := func(applied int32) *gen.WriteResult_ {
		return &gen.WriteResult_{Error: &gen.KvError{Code: gen.UNAVAILABLE, Applied: applied, Retryable: true}}
	}
	server := newFakeServer(t, func(c net.Conn, r request) bool {
		return gives(&gen.KvWriteBatchResult{Success: &gen.WriteBatchReply{
			Results: []*gen.WriteResult_{failed(gen.APPLIED_UNKNOWN), failed(gen.APPLIED_NO)}}})(c, r)
	})
	client := newTestClient(t, Config{Timeout: 100 * time.Millisecond}, server)
	batch, err := client.WriteBatch(background, new(Batch).Increment("a", 1).Increment("b", 1))
	if err != nil {
		t.Fatal(err)
	}
	for i, retryable := range []bool{false, true} {
		var e *Error
		if !errors.As(batch.Results[i].Err, &e) || e.Retryable != retryable {
			t.Fatal(i, e)
		}
	}
}
