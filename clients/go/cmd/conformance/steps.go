package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"pando.dev/go/pando"
)

// execution is a case that runs. Its objects are the clients, sessions and snapshots that steps have named; "" is the
// case's client.
type execution struct {
	runner    *runner
	addresses []string
	needsHeal bool

	mu      sync.Mutex
	objects map[string]any
	clients []*pando.Client
	opened  []*pando.Snapshot
}

func (e *execution) object(name string) any {
	e.mu.Lock()
	defer e.mu.Unlock()
	found, known := e.objects[name]
	if !known {
		bad("nothing is called %q", name)
	}
	return found
}

func (e *execution) name(name string, x any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.objects[name] = x
	switch x := x.(type) {
	case *pando.Client:
		e.clients = append(e.clients, x)
	case *pando.Snapshot:
		e.opened = append(e.opened, x)
	}
}

func (e *execution) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, snapshot := range e.opened {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		snapshot.Release(ctx)
		cancel()
	}
	for _, client := range e.clients {
		client.Close()
	}
	if client, is := e.objects[""].(*pando.Client); is {
		client.Close()
	}
}

// stepError tells which step failed. Steps inside of others fail with one that wraps another.
func (e *execution) steps(ctx context.Context, s *scope, steps []any) error {
	for i, x := range steps {
		step := x.(object)
		operation := operationOf(step)
		if err := e.step(ctx, s, step, operation); err != nil {
			return fmt.Errorf("step %d (%s): %w", i+1, operation, err)
		}
	}
	return nil
}

func operationOf(step object) string {
	for _, name := range sortedKeys(step) {
		switch name {
		case "expect", "error", "save", "on":
		default:
			return name
		}
	}
	return "nothing"
}

func (e *execution) step(ctx context.Context, s *scope, step object, operation string) (err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("%v", problem)
		}
	}()
	on, _ := step["on"].(string)
	result, err := e.operate(ctx, s, on, operation, step[operation])
	if wanted, fails := step["error"]; fails {
		if err == nil {
			return fmt.Errorf("expected the error %s, got %s", show(wanted), show(result))
		}
		result = errorObject(err)
		if !s.matches(wanted, result) {
			return fmt.Errorf("expected the error %s, got %s", show(wanted), show(result))
		}
	} else if err != nil {
		return fmt.Errorf("expected %s, got the error %w", show(step["expect"]), err)
	} else if wanted, has := step["expect"]; has && !s.matches(wanted, result) {
		return fmt.Errorf("expected %s, got %s", show(wanted), show(result))
	}
	if variables, has := step["save"].(object); has {
		for name, path := range variables {
			s.variables[name] = at(result, path.(string))
		}
	}
	return nil
}

// operate carries out the operations that are not calls.
func (e *execution) operate(ctx context.Context, s *scope, on, operation string, x any) (any, error) {
	if operation == "sleep_ms" {
		time.Sleep(milliseconds(s.intOf(x)))
		return object{}, nil
	}
	arguments, is := x.(object)
	if !is {
		bad("the arguments are no object")
	}
	switch operation {
	case "repeat":
		for i := int64(0); i < s.intOf(arguments["times"]); i++ {
			s.variables["i"] = i
			if err := e.steps(ctx, s, arguments["steps"].([]any)); err != nil {
				return nil, fmt.Errorf("i = %d: %w", i, err)
			}
		}
		return object{}, nil
	case "parallel":
		return object{}, e.parallel(ctx, s, arguments)
	case "control":
		e.mu.Lock()
		e.needsHeal = true
		e.mu.Unlock()
		return e.runner.ask(s.toControl(arguments).(object))
	case "client":
		client, err := e.newClient(s, arguments)
		if err == nil {
			e.name(arguments["as"].(string), client)
		}
		return object{}, err
	case "close":
		return object{}, e.object(arguments["client"].(string)).(*pando.Client).Close()
	case "session":
		e.name(arguments["as"].(string), e.object(on).(*pando.Client).Session())
		return object{}, nil
	}
	return e.call(ctx, s, on, operation, arguments)
}

func (e *execution) parallel(ctx context.Context, s *scope, arguments object) error {
	var branches [][]any
	if list, has := arguments["branches"].([]any); has {
		for _, branch := range list {
			branches = append(branches, branch.([]any))
		}
	} else {
		for i := int64(0); i < s.intOf(arguments["times"]); i++ {
			branches = append(branches, arguments["steps"].([]any))
		}
	}
	ended := make(chan error, len(branches))
	for i, branch := range branches {
		own := s.copy()
		own.variables["i"] = int64(i)
		go func(i int, branch []any) {
			err := e.steps(ctx, own, branch)
			if err != nil {
				err = fmt.Errorf("branch %d: %w", i, err)
			}
			ended <- err
		}(i, branch)
	}
	var first error
	for range branches {
		if err := <-ended; err != nil && first == nil {
			first = err
		}
	}
	return first
}

var kinds = map[error]string{pando.ErrBadRequest: "BadRequest", pando.ErrUnavailable: "Unavailable",
	pando.ErrDeadline: "Deadline", pando.ErrSnapshotGone: "SnapshotGone", pando.ErrFeedGone: "FeedGone",
	pando.ErrSessionLost: "SessionLost", pando.ErrDiskFull: "DiskFull", pando.ErrCorrupt: "Corrupt",
	pando.ErrInternal: "Internal"}

func errorObject(err error) any {
	var e *pando.Error
	if !errors.As(err, &e) {
		return object{"code": "OTHER", "message": err.Error()}
	}
	result := object{"code": e.Code.String(), "number": int64(e.Code), "applied": e.Applied.String(),
		"retryable": e.Retryable, "kind": "PandoError", "message": e.Message, "tries": int64(e.Tries), "cause": nil}
	if kind, known := kinds[e.Kind()]; known {
		result["kind"] = kind
	}
	if errors.Is(err, e.Kind()) != (e.Kind() != nil) {
		result["kind"] = "errors.Is does not find the kind"
	}
	if cause := e.Unwrap(); cause != nil {
		result["cause"] = errorObject(cause)
	}
	return result
}

func (e *execution) fill(ctx context.Context, s *scope, kv calls, x object) error {
	digits := int64(4)
	if x["digits"] != nil {
		digits = s.intOf(x["digits"])
	}
	count, prefix := s.intOf(x["count"]), string(s.bytesOf(x["prefix"]))
	batch := new(pando.Batch)
	for i := int64(0); i < count; i++ {
		value := []byte(strconv.FormatInt(i, 10))
		if x["value"] != nil {
			value = s.bytesOf(x["value"])
		}
		batch.Put(fmt.Sprintf("%s%0*d", prefix, int(digits), i), value)
		if batch.Len() < 500 && i+1 < count {
			continue
		}
		result, err := kv.WriteBatch(ctx, batch)
		if err == nil {
			err = result.Err()
		}
		if err != nil {
			return err
		}
		batch = new(pando.Batch)
	}
	return nil
}
