package pando

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"pando.dev/go/internal/gen"
)

// Record is a record, or says that there is none.
type Record struct {
	// Found: there is a record. The other fields are zero if not.
	Found bool
	Value []byte
	// Version of the write that made the record what it is.
	Version int64
	// ExpiresAt is when it expires, to the millisecond. The zero time = never.
	ExpiresAt time.Time
}

// Aggregate is a summary of the records of a range.
type Aggregate struct {
	Count int64
	// Bytes is the total size of keys and values.
	Bytes int64
	// ContentHash is the sum, modulo 2^64, of a hash of each record with its version and expiry.
	ContentHash int64
}

// RangePart is a part of a range.
type RangePart struct {
	Range
	Count int64
	// Bytes is the total size of keys and values.
	Bytes int64
}

// reads are the calls that a Client, a Session and a Snapshot have.
type reads struct {
	core     *core
	session  *sessionState
	snapshot []byte
}

func (r *reads) options(options []ReadOption) readOptions {
	o := readOptions{level: -1, snapshot: r.snapshot}
	for _, option := range options {
		option.applyRead(&o)
	}
	return r.withDefaults(o)
}

// withDefaults replaces a level that no option has named. A snapshot shows the same at every level.
func (r *reads) withDefaults(o readOptions) readOptions {
	if o.level >= 0 {
		return o
	}
	switch {
	case len(o.snapshot) > 0:
		o.level = LevelDefault
	case r.session != nil:
		o.level = levelOfSession
	default:
		o.level, o.maxStaleness = r.core.config.ReadLevel, r.core.config.MaxStaleness
	}
	return o
}

// levelOfSession stands for LevelSession, or for LevelLinearizable if the session has seen more than its token can say.
const levelOfSession Level = -2

func (r *reads) operation(method string, o readOptions) *operation {
	return &operation{method: method, level: o.level, maxStaleness: o.maxStaleness, session: r.session}
}

// Get reads a record. If there is none, Record.Found is false; that is no error.
func (r *reads) Get(ctx context.Context, key string, options ...ReadOption) (Record, error) {
	o := r.options(options)
	request := &gen.GetRequest{Key: []byte(key), Snapshot: o.snapshot}
	answer, err := invoke(ctx, r.core, r.operation("get", o),
		func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.GetReply, error) {
			return kv.Get(ctx, with, request)
		})
	if err != nil {
		return Record{}, err
	}
	return recordFrom(answer.Record), nil
}

// MultiGet reads several records, in the order of the keys. Without a snapshot, each key is read on its own, so the
// records may belong to different moments. If some of the keys cannot be read until the call's time is over, MultiGet
// returns an error.
func (r *reads) MultiGet(ctx context.Context, keys []string, options ...ReadOption) ([]Record, error) {
	o := r.options(options)
	records := make([]Record, len(keys))
	open := make([]int, len(keys)) // the indexes of the keys that are not read yet
	for i := range keys {
		open[i] = i
	}
	_, err := invoke(ctx, r.core, r.operation("multiGet", o),
		func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.MultiGetReply, error) {
			request := &gen.MultiGetRequest{Snapshot: o.snapshot, Keys: make([][]byte, len(open))}
			for i, index := range open {
				request.Keys[i] = []byte(keys[index])
			}
			answer, err := kv.MultiGet(ctx, with, request)
			if err != nil {
				return nil, err
			}
			if len(answer.Items) != len(open) {
				return nil, fmt.Errorf("the reply has %d records for %d keys", len(answer.Items), len(open))
			}
			var failed *gen.KvError
			open, failed = takeRecords(records, keys, open, answer.Items)
			if failed != nil {
				failed.Context = answer.Context
				return nil, failed
			}
			return answer, nil
		})
	if err != nil {
		return nil, err
	}
	return records, nil
}

// takeRecords puts the records in their places. It returns the indexes that had errors, and one of the errors: one that
// does not pass, if there is one.
func takeRecords(records []Record, keys []string, open []int, items []*gen.MultiGetItem) ([]int, *gen.KvError) {
	var rest []int
	var failed *gen.KvError
	for i, item := range items {
		if item.Error == nil {
			records[open[i]] = recordFrom(item.Record)
			continue
		}
		rest = append(rest, open[i])
		if failed == nil || failed.Retryable && !item.Error.Retryable {
			failed = item.Error
			failed.Message = fmt.Sprintf("key %q: %s", keys[open[i]], failed.Message)
		}
	}
	return rest, failed
}

// Count counts the records of a range, in a time that does not depend on their number.
func (r *reads) Count(ctx context.Context, in Range, options ...ReadOption) (int64, error) {
	o := r.options(options)
	start, end, prefix := in.bytes()
	request := &gen.CountRequest{StartKey: start, EndKey: end, Prefix: prefix, Snapshot: o.snapshot}
	answer, err := invoke(ctx, r.core, r.operation("count", o),
		func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.CountReply, error) {
			return kv.Count(ctx, with, request)
		})
	if err != nil {
		return 0, err
	}
	return answer.Count, nil
}

// Aggregate summarizes the records of a range, in a time that does not depend on their number.
func (r *reads) Aggregate(ctx context.Context, in Range, options ...ReadOption) (Aggregate, error) {
	o := r.options(options)
	start, end, prefix := in.bytes()
	request := &gen.AggregateRequest{StartKey: start, EndKey: end, Prefix: prefix, Snapshot: o.snapshot}
	answer, err := invoke(ctx, r.core, r.operation("aggregate", o),
		func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.AggregateReply, error) {
			return kv.Aggregate(ctx, with, request)
		})
	if err != nil {
		return Aggregate{}, err
	}
	return Aggregate{Count: answer.Count, Bytes: answer.Bytes, ContentHash: answer.ContentHash}, nil
}

// SplitRange splits a range into `parts` parts (2 to 256) with about equally many records, for parallel jobs. They are in
// key order and without gaps; there are fewer if there are few records.
func (r *reads) SplitRange(ctx context.Context, in Range, parts int, options ...ReadOption) ([]RangePart, error) {
	o := r.options(options)
	start, end, prefix := in.bytes()
	request := &gen.SplitRangeRequest{StartKey: start, EndKey: end, Prefix: prefix, Parts: clamp(parts), Snapshot: o.snapshot}
	answer, err := invoke(ctx, r.core, r.operation("splitRange", o),
		func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.SplitRangeReply, error) {
			return kv.SplitRange(ctx, with, request)
		})
	if err != nil {
		return nil, err
	}
	result := make([]RangePart, len(answer.Parts))
	for i, part := range answer.Parts {
		result[i] = RangePart{Between(string(part.StartKey), string(part.EndKey)), part.Count, part.Bytes}
	}
	return result, nil
}

func (r Range) bytes() (start, end, prefix []byte) {
	return []byte(r.Start), []byte(r.End), []byte(r.Prefix)
}

func recordFrom(r *gen.Record) Record {
	if r == nil || !r.Found {
		return Record{}
	}
	return Record{Found: true, Value: r.Value, Version: r.Version, ExpiresAt: timeFrom(r.ExpiresAtMs)}
}

func recordOrNil(r *gen.Record) *Record {
	if r == nil {
		return nil
	}
	record := recordFrom(r)
	return &record
}

func timeFrom(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// clamp turns a number into one for the wire. What is out of its range is out of the servers' too, and they say so.
func clamp(value int) int32 {
	switch {
	case value > math.MaxInt32:
		return math.MaxInt32
	case value < math.MinInt32:
		return math.MinInt32
	}
	return int32(value)
}

var errSessionBusy = errors.New("another call of the session has not ended")
