package main

import (
	"time"

	"pando.dev/go/pando"
)

// arguments are those of a step.
type arguments struct {
	s *scope
	x object
}

func (a arguments) text(name string) string { return string(a.s.bytesOf(a.x[name])) }

func (a arguments) number(name string, otherwise int64) int64 {
	if a.x[name] == nil {
		return otherwise
	}
	return a.s.intOf(a.x[name])
}

func (a arguments) keyRange() pando.Range {
	return pando.Range{Start: a.text("start"), End: a.text("end"), Prefix: a.text("prefix")}
}

func (a arguments) readOptions() []pando.ReadOption {
	var options []pando.ReadOption
	if a.x["max_staleness_ms"] != nil {
		options = append(options, pando.MaxStaleness(milliseconds(a.number("max_staleness_ms", 0))))
	}
	if a.x["level"] != nil {
		options = append(options, pando.ReadLevel(levelOf(a.x["level"])))
	}
	return options
}

func (a arguments) scanOptions(e *execution) []pando.ScanOption {
	var options []pando.ScanOption
	for _, option := range a.readOptions() {
		options = append(options, option)
	}
	for name, option := range map[string]pando.ScanOption{"reverse": pando.Reverse(), "keys_only": pando.KeysOnly(),
		"sizes_only": pando.SizesOnly()} {
		if a.x[name] == true {
			options = append(options, option)
		}
	}
	if a.x["limit"] != nil {
		options = append(options, pando.Limit(int(a.number("limit", 0))))
	}
	options = append(options, pando.PageRows(int(a.number("page_rows", 0))))
	if a.x["slices"] != nil {
		options = append(options, pando.Slice(int(a.number("slice", 0)), int(a.number("slices", 0))))
	}
	if name, has := a.x["since"].(string); has {
		options = append(options, pando.Since(e.object(name).(*pando.Snapshot).Token()))
	}
	if cursor := a.s.bytesOf(a.x["cursor"]); len(cursor) > 0 {
		options = append(options, pando.FromCursor(cursor))
	}
	return options
}

func (a arguments) writeLevel() []pando.WriteOption {
	if a.x["level"] == nil {
		return nil
	}
	return []pando.WriteOption{pando.WriteLevel(levelOf(a.x["level"]))}
}

func (a arguments) writeOptions() []pando.WriteOption {
	var options []pando.WriteOption
	add := func(name string, option func() pando.WriteOption) {
		if a.x[name] != nil {
			options = append(options, option())
		}
	}
	add("if_version", func() pando.WriteOption { return pando.IfVersion(a.number("if_version", 0)) })
	add("if_value", func() pando.WriteOption { return pando.IfValue(a.s.bytesOf(a.x["if_value"])) })
	add("if_exists", func() pando.WriteOption {
		if a.x["if_exists"] == true {
			return pando.IfExists()
		}
		return pando.IfAbsent()
	})
	add("ttl_ms", func() pando.WriteOption { return pando.TTL(milliseconds(a.number("ttl_ms", 0))) })
	add("expires_at_ms", func() pando.WriteOption {
		return pando.ExpiresAt(time.UnixMilli(a.number("expires_at_ms", 0)))
	})
	if a.x["ttl"] == "clear" {
		options = append(options, pando.NoExpiry())
	}
	if a.x["return_previous"] == true {
		options = append(options, pando.ReturnPrevious())
	}
	return options
}

func (a arguments) deleteOptions() []pando.DeleteOption {
	options := []pando.DeleteOption{pando.DeletePageRows(int(a.number("page_rows", 0)))}
	if a.x["max_version"] != nil {
		options = append(options, pando.MaxVersion(a.number("max_version", 0)))
	}
	return options
}

func (a arguments) snapshotOptions() []pando.SnapshotOption {
	var options []pando.SnapshotOption
	if a.x["ttl_ms"] != nil {
		options = append(options, pando.SnapshotTTL(milliseconds(a.number("ttl_ms", 0))))
	}
	if a.x["renew"] == false {
		options = append(options, pando.NoRenewal())
	}
	return options
}

// Results.

func rawOrNil(bytes []byte) any {
	if bytes == nil {
		return nil
	}
	return raw(bytes)
}

func toMs(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.UnixMilli()
}

func recordObject(r pando.Record) any {
	if !r.Found {
		return nil
	}
	return object{"value": raw(r.Value), "version": r.Version, "expires_at_ms": toMs(r.ExpiresAt)}
}

func recordPointer(r *pando.Record) any {
	if r == nil {
		return nil
	}
	return recordObject(*r)
}

func writeObject(r pando.WriteResult, increment bool) any {
	result := object{"applied": r.Applied, "version": r.Version, "existed": r.Existed, "current": recordPointer(r.Current),
		"number": nil, "previous": recordPointer(r.Previous), "previous_omitted": r.PreviousValueOmitted,
		"withheld": r.Withheld, "error": nil}
	if increment && r.Applied {
		result["number"] = r.Number
	}
	if r.Err != nil {
		result["error"] = errorObject(r.Err)
	}
	return result
}

func snapshotObject(s *pando.Snapshot) any {
	return object{"version": s.Version(), "expires_at_ms": toMs(s.ExpiresAt())}
}

func rowsObject(rows []pando.Row, pages int, cursor []byte) any {
	list, keys := make([]any, len(rows)), make([]any, len(rows))
	for i, row := range rows {
		keys[i] = raw(row.Key)
		list[i] = object{"key": raw(row.Key), "value": raw(row.Value), "version": row.Version,
			"expires_at_ms": toMs(row.ExpiresAt), "removed": row.Removed, "value_bytes": row.ValueBytes}
	}
	return object{"rows": list, "keys": keys, "count": int64(len(rows)), "pages": int64(pages), "cursor": raw(cursor)}
}

func infoObject(info pando.ServerInfo) any {
	features := make([]any, len(info.Features))
	for i, feature := range info.Features {
		features[i] = feature
	}
	l := info.Limits
	return object{"server_version": info.Version, "api_version": int64(info.APIVersion), "cluster_id": info.ClusterID,
		"features": features, "limits": object{"max_key_bytes": int64(l.MaxKeyBytes),
			"max_value_bytes": int64(l.MaxValueBytes), "max_batch_ops": int64(l.MaxBatchOps),
			"max_batch_bytes": int64(l.MaxBatchBytes), "max_multi_get_keys": int64(l.MaxMultiGetKeys),
			"max_frame_bytes": int64(l.MaxFrameBytes), "max_scan_rows": int64(l.MaxScanRows),
			"max_scan_bytes": int64(l.MaxScanBytes)}}
}
