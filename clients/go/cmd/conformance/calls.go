package main

import (
	"context"
	"errors"
	"time"

	"pando.dev/go/pando"
)

// reads are what clients, sessions and snapshots have.
type reads interface {
	Get(context.Context, string, ...pando.ReadOption) (pando.Record, error)
	MultiGet(context.Context, []string, ...pando.ReadOption) ([]pando.Record, error)
	Count(context.Context, pando.Range, ...pando.ReadOption) (int64, error)
	Aggregate(context.Context, pando.Range, ...pando.ReadOption) (pando.Aggregate, error)
	SplitRange(context.Context, pando.Range, int, ...pando.ReadOption) ([]pando.RangePart, error)
	Scan(context.Context, pando.Range, ...pando.ScanOption) *pando.Scanner
	ScanPage(context.Context, pando.Range, ...pando.ScanOption) (pando.ScanPage, error)
}

// calls are what clients and sessions have.
type calls interface {
	reads
	Put(context.Context, string, []byte, ...pando.WriteOption) (pando.WriteResult, error)
	Remove(context.Context, string, ...pando.WriteOption) (pando.WriteResult, error)
	Increment(context.Context, string, int64, ...pando.WriteOption) (pando.WriteResult, error)
	Touch(context.Context, string, ...pando.WriteOption) (pando.WriteResult, error)
	WriteBatch(context.Context, *pando.Batch) (pando.BatchResult, error)
	DeleteRange(context.Context, pando.Range, ...pando.DeleteOption) (int64, error)
	OpenSnapshot(context.Context, ...pando.SnapshotOption) (*pando.Snapshot, error)
	Watch(context.Context, string, ...pando.WatchOption) (*pando.Watcher, error)
}

// call carries out a call of a client.
func (e *execution) call(ctx context.Context, s *scope, on, operation string, x object) (any, error) {
	if x["timeout_ms"] != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, milliseconds(s.intOf(x["timeout_ms"])))
		defer cancel()
	} else {
		ctx = withoutDeadline{ctx}
	}
	a := arguments{s, x}
	kv := e.object(on).(calls)
	switch operation {
	case "put", "remove", "increment", "touch":
		result, err := a.write(ctx, kv, operation)
		if err != nil {
			return nil, err
		}
		return writeObject(result, operation == "increment"), nil
	case "write_batch":
		return a.writeBatch(ctx, kv)
	case "delete_range":
		removed, err := kv.DeleteRange(ctx, a.keyRange(), a.deleteOptions()...)
		return object{"removed": removed}, err
	case "watch":
		return a.watch(ctx, kv)
	case "snapshot":
		snapshot, err := kv.OpenSnapshot(ctx, a.snapshotOptions()...)
		if err != nil {
			return nil, err
		}
		e.name(x["as"].(string), snapshot)
		return snapshotObject(snapshot), nil
	case "renew":
		snapshot := e.object(x["snapshot"].(string)).(*pando.Snapshot)
		err := snapshot.Renew(ctx, milliseconds(a.number("ttl_ms", 0)))
		return snapshotObject(snapshot), err
	case "release":
		existed, err := e.object(x["snapshot"].(string)).(*pando.Snapshot).Release(ctx)
		return object{"existed": existed}, err
	case "server_info":
		info, err := kv.(*pando.Client).ServerInfo(ctx)
		return infoObject(info), err
	case "fill":
		return object{}, e.fill(ctx, s, kv, x)
	}
	var from reads = kv
	if name, has := x["snapshot"].(string); has {
		from = e.object(name).(*pando.Snapshot)
	}
	return e.read(ctx, a, from, operation)
}

// withoutDeadline is cancelled with the case, but leaves it to the client how long a call may take.
type withoutDeadline struct{ context.Context }

func (withoutDeadline) Deadline() (time.Time, bool) { return time.Time{}, false }

func (e *execution) read(ctx context.Context, a arguments, from reads, operation string) (any, error) {
	switch operation {
	case "get":
		record, err := from.Get(ctx, a.text("key"), a.readOptions()...)
		return recordObject(record), err
	case "multi_get":
		var keys []string
		for _, key := range a.s.eval(a.x["keys"]).([]any) {
			keys = append(keys, string(a.s.bytesOf(key)))
		}
		records, err := from.MultiGet(ctx, keys, a.readOptions()...)
		list := make([]any, len(records))
		for i, record := range records {
			list[i] = recordObject(record)
		}
		return object{"records": list}, err
	case "count":
		count, err := from.Count(ctx, a.keyRange(), a.readOptions()...)
		return object{"count": count}, err
	case "aggregate":
		sums, err := from.Aggregate(ctx, a.keyRange(), a.readOptions()...)
		return object{"count": sums.Count, "bytes": sums.Bytes, "content_hash": sums.ContentHash}, err
	case "split_range":
		parts, err := from.SplitRange(ctx, a.keyRange(), int(a.number("parts", 0)), a.readOptions()...)
		list, total := make([]any, len(parts)), int64(0)
		for i, part := range parts {
			list[i] = object{"start": raw(part.Start), "end": raw(part.End), "count": part.Count, "bytes": part.Bytes}
			total += part.Count
		}
		return object{"parts": list, "total": total}, err
	case "scan":
		scanner := from.Scan(ctx, a.keyRange(), a.scanOptions(e)...)
		var rows []pando.Row
		for scanner.Next() {
			rows = append(rows, scanner.Row())
		}
		return rowsObject(rows, scanner.Pages(), scanner.Cursor()), scanner.Err()
	case "scan_page":
		page, err := from.ScanPage(ctx, a.keyRange(), a.scanOptions(e)...)
		return rowsObject(page.Rows, 1, page.Cursor), err
	}
	bad("unknown operation")
	return nil, nil
}

func (a arguments) write(ctx context.Context, kv calls, operation string) (pando.WriteResult, error) {
	options := append(a.writeOptions(), a.writeLevel()...)
	switch operation {
	case "put":
		return kv.Put(ctx, a.text("key"), a.s.bytesOf(a.x["value"]), options...)
	case "remove":
		return kv.Remove(ctx, a.text("key"), options...)
	case "increment":
		return kv.Increment(ctx, a.text("key"), a.number("delta", 1), options...)
	}
	return kv.Touch(ctx, a.text("key"), options...)
}

func (a arguments) writeBatch(ctx context.Context, kv calls) (any, error) {
	batch := new(pando.Batch)
	if a.x["all_or_nothing"] == true {
		batch.AllOrNothing()
	}
	if a.x["level"] != nil {
		batch.Level(levelOf(a.x["level"]))
	}
	var increments []bool
	for _, op := range a.x["ops"].([]any) {
		for kind, x := range op.(object) {
			o := arguments{a.s, x.(object)}
			increments = append(increments, kind == "increment")
			switch kind {
			case "put":
				batch.Put(o.text("key"), o.s.bytesOf(o.x["value"]), o.writeOptions()...)
			case "remove":
				batch.Remove(o.text("key"), o.writeOptions()...)
			case "increment":
				batch.Increment(o.text("key"), o.number("delta", 1), o.writeOptions()...)
			case "touch":
				batch.Touch(o.text("key"), o.writeOptions()...)
			default:
				bad("unknown op %s", kind)
			}
		}
	}
	conditions, _ := a.x["conditions"].([]any)
	for _, x := range conditions {
		o := arguments{a.s, x.(object)}
		batch.Require(o.text("key"), o.writeOptions()...)
	}
	result, err := kv.WriteBatch(ctx, batch)
	if err != nil {
		return nil, err
	}
	results, failed := make([]any, len(result.Results)), make([]any, len(result.FailedConditions))
	for i, r := range result.Results {
		results[i] = writeObject(r, i < len(increments) && increments[i])
	}
	for i, condition := range result.FailedConditions {
		failed[i] = object{"index": int64(condition.Index), "current": recordObject(condition.Current)}
	}
	return object{"results": results, "failed_conditions": failed}, nil
}

func (a arguments) watch(ctx context.Context, kv calls) (any, error) {
	var options []pando.WatchOption
	if position := a.s.bytesOf(a.x["position"]); len(position) > 0 {
		options = append(options, pando.FromPosition(position))
	}
	if a.x["after_version"] != nil {
		options = append(options, pando.AfterVersion(a.number("after_version", 0)))
	}
	if a.x["max_changes"] != nil {
		options = append(options, pando.LimitChanges(int(a.number("max_changes", 0))))
	}
	wait := milliseconds(a.number("wait_ms", 0))
	waiting, cancel := ctx, context.CancelFunc(func() {})
	if wait > 0 {
		waiting, cancel = context.WithTimeout(ctx, wait)
	}
	defer cancel()
	watcher, err := kv.Watch(waiting, a.text("prefix"), options...)
	if err != nil {
		return nil, err
	}
	defer watcher.Close()
	changes := []any{}
	for wait > 0 && watcher.Next() {
		change := watcher.Change()
		changes = append(changes, object{"key": raw(change.Key), "version": change.Version, "removed": change.Removed})
	}
	if err = watcher.Err(); err != nil && !(errors.Is(err, pando.ErrDeadline) && ctx.Err() == nil) {
		return nil, err
	}
	return object{"changes": changes, "position": rawOrNil(watcher.Position())}, nil
}
