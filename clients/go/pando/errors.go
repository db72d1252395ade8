package pando

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pando.dev/go/internal/gen"
)

// Code is a code of an error. Servers may send codes that this client does not know.
type Code int32

// The codes. CodeClosed and CodeTransport are this client's own; servers do not send them.
const (
	CodeClosed          Code = -1
	CodeTransport       Code = 0
	CodeBadRequest      Code = gen.BAD_REQUEST
	CodeTooLarge        Code = gen.TOO_LARGE
	CodeUnauthenticated Code = gen.UNAUTHENTICATED
	CodeDenied          Code = gen.DENIED
	CodeNotMaster       Code = gen.NOT_MASTER
	CodeStaleMap        Code = gen.STALE_MAP
	CodeMoving          Code = gen.MOVING
	CodeOverloaded      Code = gen.OVERLOADED
	CodeDeadline        Code = gen.DEADLINE
	CodeUnavailable     Code = gen.UNAVAILABLE
	CodeTooStale        Code = gen.TOO_STALE
	CodeSnapshotGone    Code = gen.SNAPSHOT_GONE
	CodeBadCursor       Code = gen.BAD_CURSOR
	CodeTokenMismatch   Code = gen.TOKEN_MISMATCH
	CodeDiskFull        Code = gen.DISK_FULL
	CodeCorrupt         Code = gen.CORRUPT
	CodeInternal        Code = gen.INTERNAL
	CodeQuotaExceeded   Code = gen.QUOTA_EXCEEDED
	CodeCancelled       Code = gen.CANCELLED
	CodeFeedGone        Code = gen.FEED_GONE
	CodeSessionLost     Code = gen.SESSION_LOST
)

// Applied says whether a write took effect.
type Applied int32

// After AppliedUnknown, read the record to find out.
const (
	AppliedUnknown Applied = gen.APPLIED_UNKNOWN
	AppliedNo      Applied = gen.APPLIED_NO
	AppliedYes     Applied = gen.APPLIED_YES
)

// String returns "NO", "YES" or "UNKNOWN".
func (a Applied) String() string {
	switch a {
	case AppliedNo:
		return "NO"
	case AppliedYes:
		return "YES"
	}
	return "UNKNOWN"
}

// The kinds of errors that callers tell apart. Test for them with errors.Is.
var (
	// ErrBadRequest: the request is wrong, and wrong again if it is repeated (BAD_REQUEST, TOO_LARGE, BAD_CURSOR,
	// TOKEN_MISMATCH).
	ErrBadRequest = errors.New("bad request")
	// ErrUnavailable: who could serve the request is not there, or busy. It is the cause of an ErrDeadline, because the
	// client repeats such requests until their time is over; it comes alone when repeating could do harm.
	ErrUnavailable = errors.New("unavailable")
	// ErrDeadline: the time of the call is over. It is a context.DeadlineExceeded too.
	ErrDeadline = errors.New("deadline exceeded")
	// ErrSnapshotGone: the snapshot has expired, was released, or was lost in a restart. Open another one.
	ErrSnapshotGone = errors.New("snapshot gone")
	// ErrFeedGone: the changes after the watcher's position are no longer kept. Scan a new snapshot, and watch from its
	// version.
	ErrFeedGone = errors.New("feed gone")
	// ErrSessionLost: what the session has seen was lost, or it is too old to tell. Begin another session.
	ErrSessionLost = errors.New("session lost")
	// ErrDiskFull: the disk of a server is full.
	ErrDiskFull = errors.New("disk full")
	// ErrCorrupt: the data on a disk is damaged.
	ErrCorrupt = errors.New("corrupt")
	// ErrInternal: a server has failed in a way that it does not explain.
	ErrInternal = errors.New("internal error")
	// ErrClosed: the client was closed.
	ErrClosed = errors.New("client closed")
)

type codeInfo struct {
	name   string
	kind   error // nil: no kind of its own
	advice string
}

var codes = map[Code]codeInfo{
	CodeClosed:          {"CLOSED", ErrClosed, "Do not use a client after Close."},
	CodeTransport:       {"TRANSPORT", ErrUnavailable, "Check the addresses, and whether the servers run."},
	CodeBadRequest:      {"BAD_REQUEST", ErrBadRequest, "Correct the request as the message says."},
	CodeTooLarge:        {"TOO_LARGE", ErrBadRequest, "Make the request smaller; ServerInfo has the limits."},
	CodeUnauthenticated: {"UNAUTHENTICATED", nil, "Give an identity that the server can verify."},
	CodeDenied:          {"DENIED", nil, "Ask for the permission that the message names."},
	CodeNotMaster:       {"NOT_MASTER", ErrUnavailable, "Connect to a router, or to the node that Master names."},
	CodeStaleMap:        {"STALE_MAP", ErrUnavailable, "Try again later."},
	CodeMoving:          {"MOVING", ErrUnavailable, "Try again later."},
	CodeOverloaded:      {"OVERLOADED", ErrUnavailable, "Send fewer requests at once, and try again later."},
	CodeDeadline:        {"DEADLINE", ErrDeadline, "Allow more time, or look at the cause, which is the error of the last try."},
	CodeUnavailable:     {"UNAVAILABLE", ErrUnavailable, "Try again later; if it lasts, look at kvadmin cluster status."},
	CodeTooStale:        {"TOO_STALE", ErrUnavailable, "Try again later, or read at LevelLinearizable."},
	CodeSnapshotGone:    {"SNAPSHOT_GONE", ErrSnapshotGone, "Open another snapshot."},
	CodeBadCursor:       {"BAD_CURSOR", ErrBadRequest, "Use a cursor only with the range, direction and snapshot that it came from."},
	CodeTokenMismatch:   {"TOKEN_MISMATCH", ErrBadRequest, "Begin another session: this one belongs to another cluster."},
	CodeDiskFull:        {"DISK_FULL", ErrDiskFull, "Remove records, or give the nodes more space."},
	CodeCorrupt:         {"CORRUPT", ErrCorrupt, "Look at the log of the node and at kvadmin scrub."},
	CodeInternal:        {"INTERNAL", ErrInternal, "Look at the log of the server."},
	CodeQuotaExceeded:   {"QUOTA_EXCEEDED", nil, "Stay within the quota, or ask for a higher one."},
	CodeCancelled:       {"CANCELLED", nil, "The caller has cancelled the call."},
	CodeFeedGone:        {"FEED_GONE", ErrFeedGone, "Scan a new snapshot, and watch from its version."},
	CodeSessionLost:     {"SESSION_LOST", ErrSessionLost, "Begin another session, and read again what must be recent."},
}

// String returns the name that the interface gives the code, such as "OVERLOADED", or "CODE_99".
func (c Code) String() string {
	if info, known := codes[c]; known {
		return info.name
	}
	return fmt.Sprintf("CODE_%d", int32(c))
}

// Error is the error of a call.
type Error struct {
	// Code says what happened. CodeDeadline and CodeCancelled may be the client's own judgement; others are a server's.
	Code Code
	// Message says it in words.
	Message string
	// Applied says whether the write took effect. It is AppliedNo for reads.
	Applied Applied
	// Retryable: the same request may succeed later, and sending it again does no harm. So it is false if Applied is
	// AppliedUnknown, except for DeleteRange.
	Retryable bool
	// RetryAfter is how long the server asks to wait before the next try; 0 = it does not say.
	RetryAfter time.Duration
	// Master is the address of the node that can serve the request, if the server names one.
	Master string
	// Method is the call in the interface, such as "put".
	Method string
	// Tries is how often the request was tried.
	Tries int

	cause error
}

// Error returns the method, the code and the message.
func (e *Error) Error() string {
	text := fmt.Sprintf("pando: %s: %v: %s", e.Method, e.Code, e.Message)
	if e.Applied != AppliedNo {
		text += fmt.Sprintf(" (applied: %v)", e.Applied)
	}
	if e.cause != nil && e.Code != CodeTransport {
		text += fmt.Sprintf("; after %d tries, the last: %v", e.Tries, e.cause)
	}
	return text
}

// Unwrap returns the error of the last try, if time is over or the caller has cancelled the call, and the TransportError
// of a try that had no answer.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is the kind of the error. A deadline is context.DeadlineExceeded too, and a cancelled call
// is context.Canceled.
func (e *Error) Is(target error) bool {
	switch target {
	case nil:
		return false
	case context.DeadlineExceeded:
		return e.Code == CodeDeadline
	case context.Canceled:
		return e.Code == CodeCancelled
	}
	return codes[e.Code].kind == target
}

// Kind returns the Err... value that errors.Is finds in this error, or nil if its code has no kind of its own.
func (e *Error) Kind() error { return codes[e.Code].kind }

// Advice says in a sentence what to do. It is empty for codes that this client does not know.
func (e *Error) Advice() string { return codes[e.Code].advice }

// TransportError is the cause of an Error whose last try had no usable answer: there was no connection, it broke, or
// what came was not an answer to the request (Protocol).
type TransportError struct {
	// Address of the server.
	Address string
	// Protocol: the answer had another sequence id, was that of another method, or could not be decoded.
	Protocol bool
	// Sent: the request may have arrived.
	Sent bool
	// Err is what went wrong.
	Err error
}

// Error returns the address and what went wrong.
func (e *TransportError) Error() string { return fmt.Sprintf("%s: %v", e.Address, e.Err) }

// Unwrap returns what went wrong.
func (e *TransportError) Unwrap() error { return e.Err }

// Is reports whether target is ErrUnavailable.
func (e *TransportError) Is(target error) bool { return target == ErrUnavailable }

func errorFrom(method string, e *gen.KvError) *Error {
	return &Error{
		Code:       Code(e.Code),
		Message:    e.Message,
		Applied:    Applied(e.Applied),
		Retryable:  e.Retryable,
		RetryAfter: time.Duration(e.RetryAfterMs) * time.Millisecond,
		Master:     e.GetMaster(),
		Method:     method,
		Tries:      1,
	}
}

func badRequest(method, format string, args ...any) *Error {
	return &Error{Code: CodeBadRequest, Message: fmt.Sprintf(format, args...), Applied: AppliedNo, Method: method}
}
