package pando

import (
	"context"
	"time"

	"pando.dev/go/internal/gen"
)

// Row is a row of a scan.
type Row struct {
	Key string
	// Value is nil with KeysOnly and SizesOnly.
	Value   []byte
	Version int64
	// ExpiresAt is when the record expires, to the millisecond. The zero time = never.
	ExpiresAt time.Time
	// Removed: in a scan with Since, the record existed then, and does not exist now.
	Removed bool
	// ValueBytes is the size of the value, with SizesOnly.
	ValueBytes int64
}

// ScanPage is a page of a scan.
type ScanPage struct {
	// Rows may be fewer than asked for, and even none, although there are more.
	Rows []Row
	// Cursor continues after the last row. It is empty if the range is exhausted.
	Cursor []byte
}

// Scanner reads the rows of a range page by page, in byte order of the keys. It holds nothing between the pages, neither
// here nor at a server, so it need not be closed.
//
//	scanner := client.Scan(ctx, pando.Prefix("fruit/"))
//	for scanner.Next() {
//		fmt.Println(scanner.Row().Key)
//	}
//	if err := scanner.Err(); err != nil {
//		return err
//	}
//
// Or, from Go 1.23 on:
//
//	for row, err := range client.Scan(ctx, pando.Prefix("fruit/")).All() {
type Scanner struct {
	ctx     context.Context
	reads   *reads
	request gen.ScanRequest
	options scanOptions

	rows     []Row
	at       int // of the current row in rows
	returned int
	pages    int
	cursor   []byte // after the last page whose rows have all been returned
	next     []byte // after the current page
	done     bool
	err      error
}

// Scan returns a Scanner for a range. Without a snapshot, each page shows its own moment: a record that exists during
// the whole scan is returned exactly once. Each page may take Config.Timeout if the context has no deadline.
func (r *reads) Scan(ctx context.Context, in Range, options ...ScanOption) *Scanner {
	s := &Scanner{ctx: ctx, reads: r, at: -1}
	s.options.level, s.options.snapshot, s.options.limit = -1, r.snapshot, -1
	for _, option := range options {
		option.applyScan(&s.options)
	}
	o := &s.options
	if o.level < 0 && len(o.since) > 0 {
		o.level = LevelDefault // only the master is certain to have the snapshot
	}
	o.readOptions = r.withDefaults(o.readOptions)
	s.request = gen.ScanRequest{Reverse: o.reverse, KeysOnly: o.keysOnly, SizesOnly: o.sizesOnly,
		LimitBytes: clamp(o.pageBytes), Snapshot: o.snapshot, Since: o.since, Slices: clamp(o.slices), Slice: clamp(o.slice)}
	s.request.StartKey, s.request.EndKey, s.request.Prefix = in.bytes()
	s.cursor, s.next = o.cursor, o.cursor
	return s
}

// ScanPage reads one page of a range. FromCursor continues with ScanPage.Cursor. Limit is the same as PageRows here.
func (r *reads) ScanPage(ctx context.Context, in Range, options ...ScanOption) (ScanPage, error) {
	s := r.Scan(ctx, in, options...)
	if !s.isFull() && !s.nextPage() {
		return ScanPage{}, s.err
	}
	return ScanPage{Rows: s.rows, Cursor: s.next}, nil
}

// Next goes to the next row. It returns false at the end of the range or of Limit, and after an error.
func (s *Scanner) Next() bool {
	for s.err == nil {
		if s.at+1 < len(s.rows) {
			s.at++
			s.returned++
			if s.at+1 == len(s.rows) {
				s.cursor = s.next
			}
			return true
		}
		s.cursor = s.next
		if s.done || s.isFull() || !s.nextPage() {
			return false
		}
	}
	return false
}

// isFull: it has returned as many rows as it may.
func (s *Scanner) isFull() bool { return s.options.limit >= 0 && s.returned >= s.options.limit }

// Row returns the current row, after Next has returned true.
func (s *Scanner) Row() Row { return s.rows[s.at] }

// Err returns the error that has ended the scan, or nil.
func (s *Scanner) Err() error { return s.err }

// Cursor continues the scan, also in another process (FromCursor): after the current row, if it is the last of its page
// or of Limit, and otherwise after the page before. It is empty when the range is exhausted.
func (s *Scanner) Cursor() []byte { return s.cursor }

// Pages is the number of requests that have been answered.
func (s *Scanner) Pages() int { return s.pages }

// All returns the rest of the rows for a range clause. An error is the last pair.
func (s *Scanner) All() func(yield func(Row, error) bool) {
	return func(yield func(Row, error) bool) {
		for s.Next() {
			if !yield(s.Row(), nil) {
				return
			}
		}
		if s.err != nil {
			yield(Row{}, s.err)
		}
	}
}

// nextPage asks for as many rows as may still be returned, so that the cursor after them is exact.
func (s *Scanner) nextPage() bool {
	rows := s.options.pageRows
	if left := s.options.limit - s.returned; s.options.limit >= 0 && (rows <= 0 || left < rows) {
		rows = left
	}
	s.request.LimitRows, s.request.Cursor = clamp(rows), s.next
	answer, err := invoke(s.ctx, s.reads.core, s.reads.operation("scan", s.options.readOptions),
		func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.ScanReply, error) {
			return kv.Scan(ctx, with, &s.request)
		})
	if err != nil {
		s.err = err
		return false
	}
	s.pages++
	s.rows, s.at = make([]Row, len(answer.Rows)), -1
	for i, row := range answer.Rows {
		s.rows[i] = Row{Key: string(row.Key), Value: row.Value, Version: row.Version, ExpiresAt: timeFrom(row.ExpiresAtMs),
			Removed: row.Removed, ValueBytes: row.GetValueBytes()}
	}
	s.next = answer.Cursor
	s.done = len(answer.Cursor) == 0
	return true
}
