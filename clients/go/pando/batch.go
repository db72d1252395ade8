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
// was applied is not applied again.
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
	var merged *gen.WriteBatchReply
	_, err := invoke(ctx, c.core, op,
		func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.WriteBatchReply, error) {
			answer, err := kv.WriteBatch(ctx, with, request)
			if err != nil {
				return nil, err
			}
			if len(answer.Results) != len(request.Ops) && len(answer.FailedConditions) == 0 {
				return nil, fmt.Errorf("the reply has %d results for %d writes", len(answer.Results), len(request.Ops))
			}
			merged = mergeAnswers(merged, answer)
			passing, unknown := errorsIn(merged.Results)
			op.unknownInside = unknown
			if passing != nil {
				passing.Context = answer.Context
				return nil, passing
			}
			return answer, nil
		})
	if err == nil {
		return batchResultFrom(merged), nil
	}
	if merged == nil || !errors.Is(err, ErrDeadline) {
		return BatchResult{}, err
	}
	// Time was over while some writes failed. Their errors say so.
	for _, result := range merged.Results {
		if result.Error != nil && result.Error.Retryable && op.unknown {
			result.Error.Applied = gen.APPLIED_UNKNOWN // a later try had no answer
		}
	}
	return batchResultFrom(merged), nil
}

// mergeAnswers keeps what the first answer said of writes that it had decided: the answer to a repeated request does not
// have the records that were found.
func mergeAnswers(first, again *gen.WriteBatchReply) *gen.WriteBatchReply {
	if first == nil || len(first.Results) != len(again.Results) {
		return again
	}
	for i, result := range first.Results {
		if result.Applied || result.Current != nil {
			again.Results[i] = result
		}
	}
	return again
}

// errorsIn returns an error for which the batch is to be repeated, if there is one, and whether the outcome of a write is
// unknown. The returned error is a copy.
func errorsIn(results []*gen.WriteResult_) (passing *gen.KvError, unknown bool) {
	for _, result := range results {
		e := result.Error
		if e == nil {
			continue
		}
		unknown = unknown || e.Applied == gen.APPLIED_UNKNOWN
		if e.Retryable && (passing == nil || e.Applied == gen.APPLIED_UNKNOWN) {
			copied := *e
			passing = &copied
		}
	}
	return passing, unknown
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
