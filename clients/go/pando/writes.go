package pando

import (
	"context"

	"pando.dev/go/internal/gen"
)

// WriteResult is the outcome of a write.
type WriteResult struct {
	// Applied: the write took effect. If not, its condition did not hold. (In a Batch, it may also be Withheld, or have
	// failed with Err.)
	Applied bool
	// Version that the write gave the record.
	Version int64
	// Existed: there was a record before.
	Existed bool
	// Current is the record as it was when the condition did not hold. It is nil if the write was applied, and if the
	// answer is that to a repeated request, which does not have it: then read the record.
	Current *Record
	// CurrentValueOmitted: Current has no value, because the values in one answer to a Batch are limited.
	CurrentValueOmitted bool
	// Number is what Increment has made of the number.
	Number int64
	// Previous is the record before the write, if ReturnPrevious has asked for it. It is nil if the answer is that to a
	// repeated request.
	Previous *Record
	// PreviousValueOmitted: Previous has no value, or is nil, because it is not known any more.
	PreviousValueOmitted bool
	// Withheld: the write is in a Batch and was valid, but another one was refused, or a condition of the batch failed.
	Withheld bool
	// Err: the write is in a Batch, and failed. It is an *Error.
	Err error
}

// calls are the calls that a Client and a Session have.
type calls struct{ reads }

// Put creates or replaces a record. It returns when the write is as durable as its level says.
func (c *calls) Put(ctx context.Context, key string, value []byte, options ...WriteOption) (WriteResult, error) {
	o := c.writeOptions(options)
	request := &gen.PutRequest{Key: []byte(key), Value: value, Condition: o.condition, TTLMode: o.ttlMode, TTLMs: o.ttlMs,
		ExpiresAtMs: o.expiresAtMs, ReturnPrevious: o.returnPrevious}
	return c.write(ctx, "put", o, func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.WriteResult_, error) {
		return kv.Put(ctx, with, request)
	})
}

// Remove removes a record. If there is none, nothing changes, and WriteResult.Existed is false.
func (c *calls) Remove(ctx context.Context, key string, options ...WriteOption) (WriteResult, error) {
	o := c.writeOptions(options)
	if err := o.check("remove", false, true); err != nil {
		return WriteResult{}, err
	}
	request := &gen.RemoveRequest{Key: []byte(key), Condition: o.condition, ReturnPrevious: o.returnPrevious}
	return c.write(ctx, "remove", o, func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.WriteResult_, error) {
		return kv.Remove(ctx, with, request)
	})
}

// Increment adds delta to a record whose value is a decimal number of 64 bits, and returns the sum in
// WriteResult.Number. A missing record counts as 0.
func (c *calls) Increment(ctx context.Context, key string, delta int64, options ...WriteOption) (WriteResult, error) {
	o := c.writeOptions(options)
	if err := o.check("increment", true, false); err != nil {
		return WriteResult{}, err
	}
	request := &gen.IncrementRequest{Key: []byte(key), Delta: delta, Condition: o.condition, TTLMode: o.ttlMode,
		TTLMs: o.ttlMs, ExpiresAtMs: o.expiresAtMs}
	return c.write(ctx, "increment", o, func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.WriteResult_, error) {
		return kv.Increment(ctx, with, request)
	})
}

// Touch changes the expiry of a record, and leaves its value as it is. Name the expiry with TTL, ExpiresAt or NoExpiry. If
// there is no record, nothing happens, and WriteResult.Applied is false.
func (c *calls) Touch(ctx context.Context, key string, options ...WriteOption) (WriteResult, error) {
	o := c.writeOptions(options)
	if err := o.check("touch", true, false); err != nil {
		return WriteResult{}, err
	}
	request := &gen.TouchRequest{Key: []byte(key), Condition: o.condition, TTLMode: o.ttlMode, TTLMs: o.ttlMs,
		ExpiresAtMs: o.expiresAtMs}
	return c.write(ctx, "touch", o, func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.WriteResult_, error) {
		return kv.Touch(ctx, with, request)
	})
}

func (c *calls) writeOptions(options []WriteOption) *writeOptions {
	o := &writeOptions{level: c.core.config.WriteLevel}
	for _, option := range options {
		option(o)
	}
	return o
}

// check refuses options that a write does not have.
func (o *writeOptions) check(method string, expiry, previous bool) error {
	if o.ttlMode != gen.TTL_KEEP && !expiry {
		return badRequest(method, "it has no expiry: leave TTL, ExpiresAt and NoExpiry out")
	}
	if o.returnPrevious && !previous {
		return badRequest(method, "it cannot return the previous record: leave ReturnPrevious out")
	}
	return nil
}

func (c *calls) write(ctx context.Context, method string, o *writeOptions,
	send func(context.Context, *gen.KvClient, *gen.Context) (*gen.WriteResult_, error)) (WriteResult, error) {
	op := &operation{method: method, isWrite: true, named: mayBeNamed(o.level), level: o.level, session: c.session}
	answer, err := invoke(ctx, c.core, op, send)
	if err != nil {
		return WriteResult{}, err
	}
	return resultFrom(method, answer), nil
}

// mayBeNamed: servers refuse names of writes at LevelOne, which may be lost.
func mayBeNamed(level Level) bool { return level != LevelOne }

func resultFrom(method string, r *gen.WriteResult_) WriteResult {
	result := WriteResult{Applied: r.Applied, Version: r.Version, Existed: r.Existed, Number: r.GetNumber(),
		Current: recordOrNil(r.Current), CurrentValueOmitted: r.CurrentValueOmitted,
		Previous: recordOrNil(r.Previous), PreviousValueOmitted: r.PreviousValueOmitted, Withheld: r.Withheld}
	if r.Error != nil {
		result.Err = errorFrom(method, r.Error)
	}
	return result
}

// DeleteOption is an option of DeleteRange.
type DeleteOption func(*gen.DeleteRangeRequest)

// MaxVersion removes only records with at most this version: with Snapshot.Version, what was not written since.
func MaxVersion(version int64) DeleteOption {
	return func(r *gen.DeleteRangeRequest) { r.MaxVersion = version }
}

// DeletePageRows has each request examine at most so many records; 0 = the server's limit.
func DeletePageRows(rows int) DeleteOption {
	return func(r *gen.DeleteRangeRequest) { r.LimitRows = clamp(rows) }
}

// DeleteRange removes the records of a range. It makes as many requests as needed, and each of them may take
// Config.Timeout if the context has no deadline. It is not atomic: others see some of the records removed before others.
//
// When it returns without an error, every record that was in the range when it began, and was not written since, is gone.
// It returns the number of records that it removed, also with an error. Records that a request removed whose answer was
// lost are not counted. Calling again is safe.
func (c *calls) DeleteRange(ctx context.Context, in Range, options ...DeleteOption) (removed int64, err error) {
	request := &gen.DeleteRangeRequest{}
	request.StartKey, request.EndKey, request.Prefix = in.bytes()
	for _, option := range options {
		option(request)
	}
	for {
		op := &operation{method: "deleteRange", isWrite: true, harmless: true, level: c.core.config.WriteLevel, session: c.session}
		answer, err := invoke(ctx, c.core, op,
			func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.DeleteRangeReply, error) {
				return kv.DeleteRange(ctx, with, request)
			})
		if err != nil {
			return removed, err
		}
		removed += answer.Removed
		request.Cursor = answer.Cursor
		if len(request.Cursor) == 0 {
			return removed, nil
		}
	}
}
