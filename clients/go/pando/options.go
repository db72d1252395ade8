package pando

import (
	"time"

	"pando.dev/go/internal/gen"
)

// ReadOption is an option of Get and of the other reads. It is a ScanOption too.
type ReadOption interface {
	ScanOption
	applyRead(*readOptions)
}

// ScanOption is an option of Scan and ScanPage.
type ScanOption interface{ applyScan(*scanOptions) }

type readOptions struct {
	level        Level
	maxStaleness time.Duration
	snapshot     []byte
}

type scanOptions struct {
	readOptions
	reverse, keysOnly, sizesOnly bool
	limit, pageRows, pageBytes   int
	slices, slice                int
	since, cursor                []byte
}

type readOption func(*readOptions)

func (o readOption) applyRead(to *readOptions) { o(to) }
func (o readOption) applyScan(to *scanOptions) { o(&to.readOptions) }

type scanOption func(*scanOptions)

func (o scanOption) applyScan(to *scanOptions) { o(to) }

// ReadLevel reads at this level.
func ReadLevel(level Level) ReadOption { return readOption(func(o *readOptions) { o.level = level }) }

// MaxStaleness reads at LevelBounded: at any replica that has what was acknowledged so long before the read began. The
// unit on the wire is a millisecond. With 0, the read is served by the master.
func MaxStaleness(staleness time.Duration) ReadOption {
	return readOption(func(o *readOptions) { o.level, o.maxStaleness = LevelBounded, staleness })
}

// InSnapshot reads the snapshot that the token names (Snapshot.Token), such as one that another process has opened. A
// process that has the Snapshot itself uses its methods instead.
func InSnapshot(token []byte) ReadOption {
	return readOption(func(o *readOptions) { o.snapshot = token })
}

// Reverse scans the range from its end.
func Reverse() ScanOption { return scanOption(func(o *scanOptions) { o.reverse = true }) }

// KeysOnly leaves the values out.
func KeysOnly() ScanOption { return scanOption(func(o *scanOptions) { o.keysOnly = true }) }

// SizesOnly leaves the values out, and sets Row.ValueBytes. Large values are not read from disk.
func SizesOnly() ScanOption { return scanOption(func(o *scanOptions) { o.sizesOnly = true }) }

// Limit ends the scan after so many rows. Scanner.Cursor then continues after the last of them.
func Limit(rows int) ScanOption { return scanOption(func(o *scanOptions) { o.limit = rows }) }

// PageRows asks for so many rows with each request; 0 = the server's limit. A page may have fewer.
func PageRows(rows int) ScanOption { return scanOption(func(o *scanOptions) { o.pageRows = rows }) }

// PageBytes asks for so many bytes of keys and values with each request; 0 = the server's limit.
func PageBytes(bytes int) ScanOption { return scanOption(func(o *scanOptions) { o.pageBytes = bytes }) }

// Slice reads only slice number `slice` (from 0) of `slices` (at most 65536). All slices have about as many rows, and
// together they have each row once, so several jobs can read them side by side.
func Slice(slice, slices int) ScanOption {
	return scanOption(func(o *scanOptions) { o.slice, o.slices = slice, slices })
}

// Since returns only what has changed since the older snapshot that the token names, in time proportional to the number
// of the changes. Row.Removed tells of removals. Not with Reverse.
func Since(token []byte) ScanOption { return scanOption(func(o *scanOptions) { o.since = token }) }

// FromCursor continues a scan of the same range, direction, snapshots and slice after the rows that led to the cursor.
func FromCursor(cursor []byte) ScanOption {
	return scanOption(func(o *scanOptions) { o.cursor = cursor })
}

// Range is a range of keys, in byte order. The zero Range has all keys.
type Range struct {
	// Start is the first key.
	Start string
	// End is the key before which the range ends; empty = no end.
	End string
	// Prefix narrows the range to keys that begin with it.
	Prefix string
}

// Prefix is the range of the keys that begin with prefix.
func Prefix(prefix string) Range { return Range{Prefix: prefix} }

// Between is the range of the keys from start (inclusive) to end (exclusive; empty = no end).
func Between(start, end string) Range { return Range{Start: start, End: end} }

// WriteOption is an option of Put, Remove, Increment and Touch, and of the same in a Batch. An option that a write does
// not have, such as TTL of Remove, is an ErrBadRequest.
type WriteOption func(*writeOptions)

type writeOptions struct {
	level          Level
	condition      *gen.Condition
	ttlMode        int32
	ttlMs          int64
	expiresAtMs    int64
	returnPrevious bool
}

func (o *writeOptions) conditions() *gen.Condition {
	if o.condition == nil {
		o.condition = &gen.Condition{}
	}
	return o.condition
}

// WriteLevel writes at this level. It is not for writes in a Batch, which has a level of its own.
func WriteLevel(level Level) WriteOption { return func(o *writeOptions) { o.level = level } }

// IfVersion writes only if the record has this version. All conditions of a write must hold.
func IfVersion(version int64) WriteOption {
	return func(o *writeOptions) { o.conditions().Version = &version }
}

// IfValue writes only if the record has this value.
func IfValue(value []byte) WriteOption {
	return func(o *writeOptions) { o.conditions().Value = append([]byte{}, value...) }
}

// IfExists writes only if there is a record.
func IfExists() WriteOption { return func(o *writeOptions) { o.exists(true) } }

// IfAbsent writes only if there is no record.
func IfAbsent() WriteOption { return func(o *writeOptions) { o.exists(false) } }

func (o *writeOptions) exists(exists bool) { o.conditions().Exists = &exists }

// TTL makes the record expire so long after the write. The unit on the wire is a millisecond, to which it is rounded up.
// Without TTL, ExpiresAt or NoExpiry, an existing record keeps its expiry, and a new one has none.
func TTL(ttl time.Duration) WriteOption {
	return func(o *writeOptions) {
		o.ttlMode, o.ttlMs = gen.TTL_SET, int64((ttl+time.Millisecond-1)/time.Millisecond)
	}
}

// ExpiresAt makes the record expire at this time. If it is past, the record is written, but no read finds it.
func ExpiresAt(at time.Time) WriteOption {
	return func(o *writeOptions) { o.ttlMode, o.expiresAtMs = gen.TTL_SET_ABSOLUTE, at.UnixMilli() }
}

// NoExpiry makes the record never expire.
func NoExpiry() WriteOption { return func(o *writeOptions) { o.ttlMode = gen.TTL_CLEAR } }

// ReturnPrevious asks Put or Remove for the record before the write (WriteResult.Previous).
func ReturnPrevious() WriteOption { return func(o *writeOptions) { o.returnPrevious = true } }
