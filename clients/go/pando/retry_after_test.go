package pando

import (
	"context"
	"testing"
	"time"

	"pando.dev/go/internal/gen"
)

// A negative wait is none that a server may ask for: the client backs off as if there were none.
func TestNegativeRetryAfterBacksOff(t *testing.T) {
	c := &core{}
	op := &operation{method: "put", isWrite: true, tries: 1, deadline: time.Now().Add(time.Minute)}
	refusal := &gen.KvError{Code: gen.OVERLOADED, Applied: gen.APPLIED_NO, Retryable: true, RetryAfterMs: -5}
	wait, _, final := c.refused(context.Background(), op, refusal)
	if final || wait != 0 {
		t.Fatalf("wait %v, final %v; 0 = as long as the client judges right", wait, final)
	}
}
