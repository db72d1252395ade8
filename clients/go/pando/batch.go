package pando

import (
	"context"
	"errors"
	"fmt"

	"pando.dev/go/internal/gen"
)

// Batch is several writes for one request. The zero Batch is empty. Its methods return it, so that calls can be chained.
// WriteBatch does not change it.
type Batch struct {
	ops          []*gen.WriteOp
	conditions   []*gen.KeyCondition
	allOrNothing bool
	level        *Level
	err          error
}

// Put adds a put. See Client.Put.
func (b *Batch) Put(key string, value []byte, options ...WriteOption) *Batch {
	return b.add(&gen.WriteOp{Kind: gen.OP_PUT, Key: []byte(key), Value: value}, "put", true, true, options)
}

// Remove adds a remove. See Client.Remove.
func (b *Batch) Remove(key string, options ...WriteOption) *Batch {
	return b.add(&gen.WriteOp{Kind: gen.OP_REMOVE, Key: []byte(key)}, "remove", false, true, options)
}

// Increment adds an increment. See Client.Increment.
func (b *Batch) Increment(key string, delta int64, options ...WriteOption) *Batch {
	return b.add(&gen.WriteOp{Kind: gen.OP_INCREMENT, Key: []byte(key), Delta: delta}, "increment", true, false, options)
}

// Touch adds a touch. See Client.Touch.
func (b *Batch) Touch(key string, options ...WriteOption) *Batch {
	return b.add(&gen.WriteOp{Kind: gen.OP_TOUCH, Key: []byte(key)}, "touch", true, false, options)
}

// Require adds a condition (IfVersion, IfValue, IfExists, IfAbsent) on a record that the batch depends on. All of them
// must hold, or nothing is applied (BatchResult.FailedConditions). All keys of a batch with such conditions must have
// the same {tag}.
func (b *Batch) Require(key string, conditions ...WriteOption) *Batch {
	o := &writeOptions{level: -1}
	for _, condition := range conditions {
		condition(o)
	}
	if o.ttlMode != 0 || o.returnPrevious || o.level != -1 {
		b.fail(badRequest("writeBatch", "Require takes IfVersion, IfValue, IfExists and IfAbsent only"))
	}
	b.conditions = append(b.conditions, &gen.KeyCondition{Key: []byte(key), Condition: o.conditions()})
	return b
}

// AllOrNothing makes one refused write refuse all writes on its partition, which are those with its {tag}.
func (b *Batch) AllOrNothing() *Batch {
	b.allOrNothing = true
	return b
}

// Level writes the batch at this level.
func (b *Batch) Level(level Level) *Batch {
	b.level = &level
	return b
}

// Len is the number of writes.
func (b *Batch) Len() int { return len(b.ops) }

func (b *Batch) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *Batch) add(op *gen.WriteOp, method string, expiry, previous bool, options []WriteOption) *Batch {
	o := &writeOptions{level: -1}
	for _, option := range options {
		option(o)
	}
	if err := o.check(method, expiry, previous); err != nil {
		b.fail(err)
	}
	if o.level != -1 {
		b.fail(badRequest(method, "a write in a batch has no level of its own: use Batch.Level"))
	}
	op.Condition, op.TTLMode, op.TTLMs, op.ExpiresAtMs = o.condition, o.ttlMode, o.ttlMs, o.expiresAtMs
	op.ReturnPrevious = o.returnPrevious
	b.ops = append(b.ops, op)
	return b
}

// FailedCondition is a condition of a batch that did not hold.
type FailedCondition struct {
	// Index counts the calls of Batch.Require from 0.
	Index int
	// Current is the record as it was.
	Current Record
	// CurrentValueOmitted: Current has no value, because the values in one answer are limited.
	CurrentValueOmitted bool
}

// BatchResult is the outcome of a batch.
type BatchResult struct {
	// Results has one for each write, in their order.
	Results []WriteResult
	// FailedConditions: when it is not empty, nothing was applied.
	FailedConditions []FailedCondition
}

// Err returns the error of the first write that failed, or nil. A condition that did not hold is no error.
func (r BatchResult) Err() error {
	for _, result := range r.Results {
		if result.Err != nil {
			return result.Err
		}
	}
	return nil
}

// WriteBatch applies the writes of a batch, in their order.
//
// The writes on keys of one {tag} become visible together, and a crash keeps all or none of them. Otherwise each write is
// judged alone, unless the batch says AllOrNothing or Require. Writes that fail (WriteResult.Err, BatchResult.Err) do not
// make the call fail. While some of them fail in a way that may pass, the batch is repeated, under the same name: what
// was applied is not applied again. If the call is cancelled then, or the client closed, the results come with an error.
func (c *calls) WriteBatch(ctx context.Context, b *Batch) (BatchResult, error) {
	if b.err != nil {
		return BatchResult{}, b.err
	}
	level := c.core.config.WriteLevel
	if b.level != nil {
		level = *b.level
	}
	op := &operation{method: "writeBatch", isWrite: true, named: mayBeNamed(level), level: level, session: c.session,
		withoutToken: len(b.ops) == 0}
	request := &gen.WriteBatchRequest{Ops: b.ops, AllOrNothing: b.allOrNothing, Conditions: b.conditions}
	var tries batchTries
	_, err := invoke(ctx, c.core, op,
		func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.WriteBatchReply, error) {
			answer, err := kv.WriteBatch(ctx, with, request)
			if err == nil && len(answer.Results) != len(request.Ops) && len(answer.FailedConditions) == 0 {
				err = fmt.Errorf("the reply has %d results for %d writes", len(answer.Results), len(request.Ops))
			}
			if err != nil {
				tries.lost = tries.lost || mayBeDone(err)
				return nil, err
			}
			tries.merge(answer)
			op.unknownInside = tries.anyUnknown()
			if passing := tries.reasonToRepeat(len(with.ClientID) > 0); passing != nil {
				passing.Context = answer.Context
				return nil, passing
			}
			return answer, nil
		})
	if err != nil && tries.merged == nil {
		return BatchResult{}, err
	}
	return tries.end(err)
}

// batchTries is what came of a batch, over all its tries. See "Results of a batch that was sent again" in
// docs/CLIENTS.md.
type batchTries struct {
	merged *gen.WriteBatchReply // nil: no try was answered
	lost   bool                 // a try may have been carried out without an answer that says what came of each write
}

// mayBeDone: the request may have been carried out.
func mayBeDone(err error) bool {
	var refusal *gen.KvError
	var transport *TransportError
	var undecoded *applicationError
	switch {
	case errors.As(err, &refusal):
		return refusal.Applied != gen.APPLIED_NO
	case errors.As(err, &transport):
		return transport.Sent
	case errors.As(err, &undecoded):
		return !undecoded.isNotDone()
	}
	return true
}

func isDecided(r *gen.WriteResult_) bool { return r.Error == nil || r.Error.Applied == gen.APPLIED_YES }

// merge takes one answer. A write that is decided keeps its first result, since the later ones do not have the records
// that were found. Of a write that failed the last error counts; it says NO only if no try can have applied the write.
func (t *batchTries) merge(answer *gen.WriteBatchReply) {
	if before := t.merged; before != nil && len(answer.FailedConditions) == 0 && len(before.Results) == len(answer.Results) {
		for i, result := range before.Results {
			if isDecided(result) {
				answer.Results[i] = result
			} else if again := answer.Results[i]; !isDecided(again) && result.Error.Applied != gen.APPLIED_NO {
				again.Error.Applied = gen.APPLIED_UNKNOWN
			}
		}
	}
	for _, result := range answer.Results {
		if t.lost && !isDecided(result) {
			result.Error.Applied = gen.APPLIED_UNKNOWN
		}
	}
	t.merged = answer
}

func (t *batchTries) anyUnknown() bool {
	for _, result := range t.merged.Results {
		if !isDecided(result) && result.Error.Applied != gen.APPLIED_NO {
			return true
		}
	}
	return false
}

// reasonToRepeat returns a copy of an error for which the batch is to be repeated, if there is one. Without a name, it is
// repeated only if nothing of it can have been applied. An error that names a server comes first: so all masters are
// asked, although one of them may be gone.
func (t *batchTries) reasonToRepeat(named bool) *gen.KvError {
	var passing *gen.KvError
	for _, result := range t.merged.Results {
		e := result.Error
		if !named && (e == nil || e.Applied != gen.APPLIED_NO) {
			return nil
		}
		if e != nil && e.Retryable && (passing == nil || passing.GetMaster() == "" && e.GetMaster() != "") {
			copied := *e
			passing = &copied
		}
	}
	if passing != nil {
		passing.Applied = gen.APPLIED_NO
		if t.anyUnknown() {
			passing.Applied = gen.APPLIED_UNKNOWN
		}
	}
	return passing
}

// end makes the result, after which there are no more tries. `err` is why there are none.
func (t *batchTries) end(err error) (BatchResult, error) {
	var e *Error
	if errors.As(err, &e) {
		ofServer := e.Code > 0 && e.Code != CodeDeadline && e.Code != CodeCancelled
		for _, result := range t.merged.Results {
			if isDecided(result) {
				continue
			}
			unknown := t.lost || result.Error.Applied != gen.APPLIED_NO
			if ofServer {
				result.Error = &gen.KvError{Code: int32(e.Code), Message: e.Message, Retryable: e.Retryable,
					RetryAfterMs: int32(e.RetryAfter.Milliseconds())}
			}
			result.Error.Applied = gen.APPLIED_NO
			if unknown {
				result.Error.Applied = gen.APPLIED_UNKNOWN
			}
		}
		if e.Code != CodeCancelled && e.Code != CodeClosed {
			err = nil
		} else if e.Applied == AppliedNo {
			e.Applied = AppliedUnknown // the results say of each write what came of it
		}
	}
	for _, result := range t.merged.Results {
		if result.Error != nil && result.Error.Applied != gen.APPLIED_NO {
			result.Error.Retryable = false // another call would have another name
		}
	}
	return batchResultFrom(t.merged), err
}

func batchResultFrom(r *gen.WriteBatchReply) BatchResult {
	batch := BatchResult{Results: make([]WriteResult, len(r.Results))}
	for i, result := range r.Results {
		batch.Results[i] = resultFrom("writeBatch", result)
	}
	for _, failed := range r.FailedConditions {
		batch.FailedConditions = append(batch.FailedConditions, FailedCondition{Index: int(failed.Index),
			Current: recordFrom(failed.Current), CurrentValueOmitted: failed.CurrentValueOmitted})
	}
	return batch
}
