package pando

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"pando.dev/go/internal/gen"
)

const (
	firstBackoff = 10 * time.Millisecond
	maxBackoff   = time.Second
)

// core is what a client, its sessions, and its snapshots share.
type core struct {
	config Config
	pool   *pool
	lanes  lanes
	hlc    atomic.Int64 // the highest of all replies

	randomMu sync.Mutex
	random   *rand.Rand
}

func (c *core) jitter(most time.Duration) time.Duration {
	c.randomMu.Lock()
	defer c.randomMu.Unlock()
	return time.Duration(c.random.Int63n(int64(most) + 1))
}

func (c *core) sawHLC(hlc int64) {
	for {
		seen := c.hlc.Load()
		if hlc <= seen || c.hlc.CompareAndSwap(seen, hlc) {
			return
		}
	}
}

// operation is one call with all its tries.
type operation struct {
	method string
	// isWrite: it matters whether a try took effect.
	isWrite bool
	// named: it is a write that must be applied once, so it is sent under a name if the server knows names.
	named bool
	// harmless: it may be applied several times.
	harmless     bool
	level        Level
	maxStaleness time.Duration
	session      *sessionState
	// withoutToken: the reply has no token of the session, whatever the session has seen.
	withoutToken bool
	// wait is added to Config.Timeout when the context has no deadline of its own.
	wait time.Duration
	// own is the connection of a watcher, which is not one of the pool.
	own *ownConn

	// target is the address that the next try prefers; nil = the one that the pool prefers.
	target *address
	// targetIsNew: a server has named it, and this operation has not asked it yet. So the next try need not wait.
	targetIsNew bool
	asked       []*address

	lane        *lane
	firstSentMs int64
	deadline    time.Time
	tries       int
	unknown     bool // some try may have taken effect although it was not answered so
	// unknownInside: the answer says that the outcome of a part of the request is unknown.
	unknownInside bool
	last          error // of the last try
}

// mayRepeat: repeating it applies it once.
func (op *operation) mayRepeat() bool {
	return !op.isWrite || op.harmless || !op.unknown || op.lane != nil
}

// reply is what all replies have.
type reply interface{ GetContext() *gen.ReplyContext }

// invoke runs an operation until it is answered, or its time is over. `send` makes one request.
func invoke[R reply](ctx context.Context, c *core, op *operation,
	send func(ctx context.Context, kv *gen.KvClient, context *gen.Context) (R, error)) (R, error) {
	var answer R
	err := c.run(ctx, op, func(ctx context.Context, conn *conn, context *gen.Context) (*gen.ReplyContext, error) {
		var err error
		answer, err = send(ctx, conn.kv, context)
		if err != nil {
			return nil, err
		}
		return answer.GetContext(), nil
	})
	return answer, err
}

type sender func(ctx context.Context, conn *conn, context *gen.Context) (*gen.ReplyContext, error)

func (c *core) run(ctx context.Context, op *operation, send sender) error {
	op.deadline = time.Now().Add(c.config.Timeout + op.wait)
	if until, has := ctx.Deadline(); has {
		op.deadline = until
	}
	if op.session != nil {
		if err := op.session.lock(ctx, op.deadline); err != nil {
			return op.over(ctx, err)
		}
		defer op.session.unlock()
	}
	err := c.repeat(ctx, op, send)
	if op.lane != nil && !op.unknown {
		c.lanes.put(op.lane)
	}
	var e *Error
	if errors.As(err, &e) && op.isWrite && !op.harmless && e.Applied == AppliedUnknown {
		e.Retryable = false // another call would have another name
	}
	return err
}

// repeat makes tries until one is answered.
func (c *core) repeat(ctx context.Context, op *operation, send sender) error {
	backoff := firstBackoff
	for {
		if ctx.Err() != nil || !time.Now().Before(op.deadline) {
			return op.over(ctx, nil)
		}
		wait, err, final := c.try(ctx, op, send)
		if final {
			return err
		}
		op.last = err
		if wait == noWait {
			continue
		}
		if wait == 0 {
			wait = c.jitter(backoff)
			if backoff *= 2; backoff > maxBackoff {
				backoff = maxBackoff
			}
		}
		if err := c.sleep(ctx, op, wait); err != nil {
			return err
		}
	}
}

// noWait: the next try need not wait.
const noWait time.Duration = -1

// sleep waits, but not longer than the operation may take.
func (c *core) sleep(ctx context.Context, op *operation, wait time.Duration) error {
	if left := time.Until(op.deadline); wait > left {
		wait = left
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-c.pool.closed:
		return op.closed()
	}
	return nil
}

// try makes one request. If it is not final, it is to be repeated after `wait`; 0 = as long as the client judges right.
func (c *core) try(ctx context.Context, op *operation, send sender) (wait time.Duration, err error, final bool) {
	conn, err := c.takeConn(ctx, op)
	if err != nil {
		return c.noConn(ctx, op, err)
	}
	op.tries++
	op.asked = append(op.asked, conn.address)
	replyContext, err := send(ctx, conn, c.contextFor(op, conn))
	var refusal *gen.KvError
	if err == nil {
		op.unknown = op.unknownInside
		c.sawReply(op, replyContext, false)
		c.giveBack(op, conn)
		return 0, nil, true
	}
	if errors.As(err, &refusal) {
		c.sawReply(op, refusal.GetContext(), true)
		if c.moveOn(op, conn.address, refusal) && op.own != nil {
			op.own.drop() // with its connection, a watch would stay with this server
		} else {
			c.giveBack(op, conn)
		}
		return c.refused(ctx, op, refusal)
	}
	c.throwAway(op, conn)
	var undecoded *applicationError
	if errors.As(err, &undecoded) {
		return 0, op.notUnderstood(undecoded, true), true
	}
	return c.broken(ctx, op, conn, err)
}

// takeConn returns a connection on which the operation can be sent at once.
func (c *core) takeConn(ctx context.Context, op *operation) (*conn, error) {
	target := op.target
	op.target, op.targetIsNew = nil, false
	if op.own != nil {
		return op.own.take(ctx, c.pool, op.deadline, target)
	}
	conn, err := c.pool.take(ctx, op.deadline, target)
	if err != nil || !op.named || op.firstSentMs > 0 || time.Since(conn.helloTime) < clockAge {
		return conn, err
	}
	if err := conn.sayHello(ctx, c.config.ClientName, op.deadline); err != nil {
		c.pool.drop(conn)
		return nil, helloError(err)
	}
	return conn, nil
}

func (c *core) giveBack(op *operation, conn *conn) {
	if op.own == nil {
		c.pool.put(conn)
	} else {
		conn.used = true
	}
}

func (c *core) throwAway(op *operation, conn *conn) {
	if op.own != nil {
		op.own.drop()
	} else {
		c.pool.drop(conn)
	}
}

// contextFor is what is sent with the next try.
func (c *core) contextFor(op *operation, conn *conn) *gen.Context {
	context := &gen.Context{BudgetMs: budgetMs(time.Until(op.deadline)), Level: int32(op.level)}
	conn.deadline = op.deadline
	if op.level == levelOfSession {
		context.Level = int32(op.session.readLevel())
	}
	if op.maxStaleness > 0 {
		context.MaxStalenessMs = budgetMs(op.maxStaleness)
	}
	if op.session != nil {
		context.Session = op.session.token
	}
	if conn.features["clocks"] {
		context.Hlc = c.hlc.Load()
	}
	if op.named && (op.lane != nil || conn.features["idempotent_writes"]) {
		if op.lane == nil {
			op.lane = c.lanes.take() // not before it has a connection, so that there are few
			op.firstSentMs = conn.serverNowMs()
		}
		context.ClientID, context.Sequence, context.FirstSentMs = op.lane.id, op.lane.sequence, op.firstSentMs
	}
	return context
}

func (c *core) sawReply(op *operation, context *gen.ReplyContext, isError bool) {
	if context != nil {
		c.sawHLC(context.Hlc)
	}
	if op.session != nil {
		op.session.saw(context, isError || op.withoutToken)
	}
}

// moveOn makes the next try go to another server if this one cannot serve the request. NOT_MASTER is about one partition,
// so other calls do not move. It returns whether the server cannot serve it.
func (c *core) moveOn(op *operation, from *address, refusal *gen.KvError) bool {
	if refusal.Code != gen.NOT_MASTER && refusal.Code != gen.UNAVAILABLE {
		return false
	}
	if refusal.Code == gen.UNAVAILABLE {
		c.pool.moveOn(from)
	}
	target, isNamed := c.pool.afterRefusal(from, refusal.GetMaster())
	op.target, op.targetIsNew = target, isNamed
	for _, asked := range op.asked {
		op.targetIsNew = op.targetIsNew && asked != target
	}
	if op.targetIsNew {
		op.asked = append(op.asked, target) // even if it cannot be reached: without a wait once only
	}
	return true
}

// noConn: the request was not sent.
func (c *core) noConn(ctx context.Context, op *operation, err error) (time.Duration, error, bool) {
	if errors.Is(err, ErrClosed) {
		return 0, op.closed(), true
	}
	if errors.Is(err, errPoolBusy) {
		return 0, op.over(ctx, err), true
	}
	var refusal *gen.KvError
	var undecoded *applicationError
	switch {
	case errors.As(err, &refusal):
		refusal.Applied = gen.APPLIED_NO // hello, not the request
		op.tries++
		return c.refused(ctx, op, refusal)
	case errors.As(err, &undecoded):
		op.tries++
		return 0, op.notUnderstood(undecoded, false), true
	}
	op.tries++
	return 0, op.transport(err), false
}

// refused: a server has answered with an error.
func (c *core) refused(ctx context.Context, op *operation, refusal *gen.KvError) (time.Duration, error, bool) {
	e := errorFrom(op.method, refusal)
	e.Tries = op.tries
	if e.RetryAfter < 0 {
		e.RetryAfter = 0 // the client's own backoff, and not no wait at all
	}
	if !op.isWrite {
		e.Applied = AppliedNo
	}
	switch e.Applied {
	case AppliedUnknown:
		op.unknown = true
	case AppliedYes:
		op.unknown = false
	}
	if e.Retryable && op.mayRepeat() {
		if op.targetIsNew {
			return noWait, e, false
		}
		if e.RetryAfter > time.Until(op.deadline) {
			op.last = e
			return 0, op.over(ctx, fmt.Errorf("the server asks to wait for %v", e.RetryAfter)), true
		}
		return e.RetryAfter, e, false
	}
	if op.unknown && e.Applied == AppliedNo {
		e.Applied = AppliedUnknown // this try was not applied, but an earlier one may yet be
	}
	return 0, e, true
}

// broken: the connection broke, or what came was no answer. The request may have been carried out.
func (c *core) broken(ctx context.Context, op *operation, conn *conn, err error) (time.Duration, error, bool) {
	var transport *TransportError
	if !errors.As(err, &transport) {
		// The generated code found neither a result nor an error in the reply.
		transport = &TransportError{Address: conn.address.name, Err: err, Protocol: true, Sent: true}
	}
	if transport.Sent && op.isWrite {
		op.unknown = true
	}
	if c.pool.wasClosed() {
		return 0, op.closed(), true
	}
	wait := c.brokenConn(ctx, conn, transport)
	e := op.transport(transport)
	if ctx.Err() != nil {
		op.last = e
		return 0, op.over(ctx, nil), true
	}
	if !op.mayRepeat() {
		return 0, e, true
	}
	return wait, e, false
}

// brokenConn judges the address of a connection that broke, and returns how long to wait before the next try.
func (c *core) brokenConn(ctx context.Context, conn *conn, broken *TransportError) time.Duration {
	var maybeLate net.Error
	isLate := errors.As(broken.Err, &maybeLate) && maybeLate.Timeout()
	if isLate && errors.Is(ctx.Err(), context.Canceled) {
		return 0 // not late: the caller has ended it
	}
	if conn.used && !broken.Protocol {
		// If it lay idle, the server may have closed it meanwhile, as perhaps the others. If the server is silent, they are of
		// no use either.
		c.pool.closeIdle(conn.address)
		if !isLate {
			return noWait
		}
	}
	c.pool.failed(conn.address)
	return 0
}

// transport makes the error of a try that had no answer.
func (op *operation) transport(err error) *Error {
	e := &Error{Code: CodeTransport, Message: err.Error(), Applied: AppliedNo, Retryable: true, Method: op.method,
		Tries: op.tries, cause: err}
	var transport *TransportError
	if op.isWrite && errors.As(err, &transport) && transport.Sent {
		e.Applied = AppliedUnknown
	}
	return e
}

// notUnderstood: the server does not have the method, or could not decode the request, or failed. `sent`: the request, and
// not a hello.
func (op *operation) notUnderstood(undecoded *applicationError, sent bool) *Error {
	e := &Error{Code: CodeBadRequest, Message: "the server did not understand the request: " + undecoded.message,
		Method: op.method, Tries: op.tries}
	if !undecoded.isNotDone() {
		e.Code, e.Message = CodeInternal, undecoded.message
		op.unknown = op.unknown || op.isWrite && sent
	}
	e.Applied = op.applied()
	return e
}

// applied is what is known when no try was answered.
func (op *operation) applied() Applied {
	if op.unknown {
		return AppliedUnknown
	}
	return AppliedNo
}

func (op *operation) closed() *Error {
	return &Error{Code: CodeClosed, Message: "the client is closed", Applied: op.applied(), Method: op.method,
		Tries: op.tries}
}

// over: the time of the operation is over, or it was cancelled. `why`: what it was waiting for, if not for an answer.
func (op *operation) over(ctx context.Context, why error) error {
	e := &Error{Code: CodeDeadline, Applied: op.applied(), Method: op.method, Tries: op.tries, Retryable: true,
		cause: op.last}
	e.Message = "the time of the call is over"
	if errors.Is(ctx.Err(), context.Canceled) {
		e.Code, e.Message, e.Retryable = CodeCancelled, "the caller has cancelled the call", false
	}
	if why != nil {
		e.Message = fmt.Sprintf("%s; %v", e.Message, why)
	}
	return e
}
