package pando

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/apache/thrift/lib/go/thrift"

	"pando.dev/go/internal/gen"
)

const (
	// The version of the interface for which this client is built.
	apiVersion = 1
	// The largest frame that is accepted before hello has said what the server's limit is.
	minFrameLimit = 16 << 20
	// A frame is read in pieces of this size, so that a false length takes no memory.
	readPiece = 64 << 10
	// How long an answer is awaited after the request's time is over: the server's own answer says more.
	answerGrace = 100 * time.Millisecond
	// The clocks of client and server drift, so that the server's time is asked for again.
	clockAge = time.Hour
)

// conn is one connection: requests and replies one after the other, in frames. It is a thrift.TClient for the generated
// code. Whoever has taken it from the pool owns it. After an error that is not a *gen.KvError it is of no use.
type conn struct {
	address *address
	net     net.Conn
	reader  *bufio.Reader
	kv      *gen.KvClient
	out     *thrift.TMemoryBuffer
	seq     int32
	config  *thrift.TConfiguration

	// Of the request that is running.
	deadline time.Time
	sent     bool // it may have arrived; a part of a frame does nothing

	hello     *gen.HelloReply
	helloTime time.Time // when the reply to hello arrived
	features  map[string]bool
	used      bool      // it has carried a request before, and lay idle
	idleSince time.Time // for the pool
	closeOnce sync.Once
	onClose   func(*conn)
}

func newConn(nc net.Conn, a *address, onClose func(*conn)) *conn {
	c := &conn{address: a, net: nc, onClose: onClose, reader: bufio.NewReaderSize(nc, 16<<10)}
	c.config = &thrift.TConfiguration{MaxMessageSize: minFrameLimit, MaxFrameSize: minFrameLimit}
	c.out = thrift.NewTMemoryBufferLen(512)
	c.kv = gen.NewKvClient(c)
	return c
}

func (c *conn) close() {
	c.closeOnce.Do(func() {
		c.net.Close()
		c.onClose(c)
	})
}

// sayHello negotiates. It must succeed before the connection is used, and is repeated to learn the server's time.
func (c *conn) sayHello(ctx context.Context, clientName string, deadline time.Time) error {
	c.deadline = deadline
	reply, err := c.kv.Hello(ctx, &gen.Context{BudgetMs: budgetMs(time.Until(deadline))},
		&gen.HelloRequest{ClientName: clientName, APIVersion: apiVersion})
	if err != nil {
		return err
	}
	c.hello, c.helloTime = reply, time.Now()
	c.features = make(map[string]bool, len(reply.Features))
	for _, feature := range reply.Features {
		c.features[feature] = true
	}
	if limit := reply.GetLimits(); limit != nil && limit.MaxFrameBytes > minFrameLimit {
		c.config.MaxMessageSize, c.config.MaxFrameSize = limit.MaxFrameBytes, limit.MaxFrameBytes
	}
	return nil
}

// serverNowMs is the server's time as far as this connection knows it.
func (c *conn) serverNowMs() int64 { return c.hello.NowMs + time.Since(c.helloTime).Milliseconds() }

// Call implements thrift.TClient: it sends a request and waits for its reply.
func (c *conn) Call(ctx context.Context, method string, args, result thrift.TStruct) (thrift.ResponseMeta, error) {
	c.sent = false
	c.seq++
	frame, err := c.encode(ctx, method, args)
	if err != nil {
		return thrift.ResponseMeta{}, c.failed(err, true)
	}
	if err := c.net.SetDeadline(c.deadline.Add(answerGrace)); err != nil {
		return thrift.ResponseMeta{}, c.failed(err, false)
	}
	stop := c.closeWhenCancelled(ctx)
	defer stop()
	if _, err := c.net.Write(frame); err != nil {
		return thrift.ResponseMeta{}, c.failed(err, false)
	}
	c.sent = true
	reply, err := c.readFrame()
	if err != nil {
		return thrift.ResponseMeta{}, err
	}
	return thrift.ResponseMeta{}, c.decode(ctx, method, reply, result)
}

// applicationError is Thrift's own exception: a server's answer to a request that it could not decode, or whose method it
// does not have. See the table in docs/CLIENTS.md.
type applicationError struct {
	kind    int32
	message string
}

func (e *applicationError) Error() string { return e.message }

// isNotDone: the server has found it out before it did anything.
func (e *applicationError) isNotDone() bool {
	switch e.kind {
	case thrift.UNKNOWN_METHOD, thrift.INVALID_MESSAGE_TYPE_EXCEPTION, thrift.PROTOCOL_ERROR, thrift.INVALID_TRANSFORM,
		thrift.INVALID_PROTOCOL, thrift.UNSUPPORTED_CLIENT_TYPE:
		return true
	}
	return false
}

func (c *conn) failed(err error, protocol bool) error {
	return &TransportError{Address: c.address.name, Err: err, Protocol: protocol, Sent: c.sent}
}

func (c *conn) protocolError(format string, args ...any) error {
	return c.failed(fmt.Errorf(format, args...), true)
}

// closeWhenCancelled ends the request when the caller cancels it. A deadline that passes does not: the connection's own
// is a little later. The returned function must be called when the request has ended.
func (c *conn) closeWhenCancelled(ctx context.Context) func() {
	if ctx.Done() == nil {
		return func() {}
	}
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-over:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				c.net.SetDeadline(time.Unix(1, 0))
			}
		}
	}()
	return func() {
		close(over)
		<-ended
	}
}

func (c *conn) encode(ctx context.Context, method string, args thrift.TStruct) ([]byte, error) {
	c.out.Reset()
	c.out.Write([]byte{0, 0, 0, 0}) // the length, which is not known yet
	protocol := thrift.NewTBinaryProtocolConf(c.out, c.config)
	if err := protocol.WriteMessageBegin(ctx, method, thrift.CALL, c.seq); err != nil {
		return nil, err
	}
	if err := args.Write(ctx, protocol); err != nil {
		return nil, err
	}
	if err := protocol.WriteMessageEnd(ctx); err != nil {
		return nil, err
	}
	frame := c.out.Bytes()
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	return frame, nil
}

func (c *conn) readFrame() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(c.reader, head[:]); err != nil {
		return nil, c.failed(err, false)
	}
	size := int64(binary.BigEndian.Uint32(head[:]))
	if size > int64(c.config.MaxFrameSize) {
		return nil, c.protocolError("a reply claims to have %d bytes; the limit is %d", size, c.config.MaxFrameSize)
	}
	var frame []byte
	for int64(len(frame)) < size {
		piece := size - int64(len(frame))
		if piece > readPiece+int64(len(frame)) {
			piece = readPiece + int64(len(frame)) // what has come is as much as what is allocated ahead
		}
		at := len(frame)
		frame = append(frame, make([]byte, piece)...)
		if _, err := io.ReadFull(c.reader, frame[at:]); err != nil {
			return nil, c.failed(err, false)
		}
	}
	return frame, nil
}

func (c *conn) decode(ctx context.Context, method string, frame []byte, result thrift.TStruct) (err error) {
	defer func() {
		if broken := recover(); broken != nil {
			err = c.protocolError("the reply to %s cannot be decoded: %v", method, broken)
		}
	}()
	in := &thrift.TMemoryBuffer{Buffer: bytes.NewBuffer(frame)}
	protocol := thrift.NewTBinaryProtocolConf(in, c.config)
	name, kind, seq, err := protocol.ReadMessageBegin(ctx)
	if err != nil {
		return c.protocolError("a reply cannot be decoded: %w", err)
	}
	if seq != c.seq {
		return c.protocolError("a reply has the sequence id %d; that of the request is %d", seq, c.seq)
	}
	if name != method {
		return c.protocolError("the reply to %s is one to %q", method, name)
	}
	switch kind {
	case thrift.REPLY:
		err = result.Read(ctx, protocol)
	case thrift.EXCEPTION:
		refusal := thrift.NewTApplicationException(thrift.UNKNOWN_APPLICATION_EXCEPTION, "")
		if err = refusal.Read(ctx, protocol); err == nil {
			switch refusal.TypeId() {
			case thrift.WRONG_METHOD_NAME, thrift.BAD_SEQUENCE_ID, thrift.MISSING_RESULT:
				return c.protocolError("the reply to %s is none: %w", method, refusal)
			}
			return &applicationError{kind: refusal.TypeId(), message: refusal.Error()}
		}
	default:
		return c.protocolError("the reply to %s has the message type %d", method, kind)
	}
	if err != nil {
		return c.protocolError("the reply to %s cannot be decoded: %w", method, err)
	}
	if rest := in.RemainingBytes(); rest > 0 {
		return c.protocolError("the reply to %s has %d bytes too many", method, rest)
	}
	return nil
}

// budgetMs is how much time a request says that it has: at least 1, because 0 is the server's default.
func budgetMs(left time.Duration) int32 {
	const most = 1<<31 - 1
	switch ms := left.Milliseconds(); {
	case ms < 1:
		return 1
	case ms > most:
		return most
	default:
		return int32(ms)
	}
}
