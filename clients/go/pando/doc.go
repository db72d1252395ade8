// Package pando is a client of Pando, a replicated, ordered key-value store.
//
//	client, err := pando.New(pando.Config{Addresses: []string{"127.0.0.1:7450"}})
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	if _, err := client.Put(ctx, "fruit/apple", []byte("red")); err != nil {
//		return err
//	}
//	record, err := client.Get(ctx, "fruit/apple") // record.Found tells whether there is one
//
// # Keys, values, versions
//
// Keys and values are bytes. A key is a Go string, which may hold any bytes; a value is a []byte. Every write gives its
// record a higher version. A record that does not exist, and a condition that does not hold, are results
// (Record.Found, WriteResult.Applied); they are not errors.
//
// # Time
//
// The deadline of the context is the deadline of the call. Without one, a call may take Config.Timeout. Until then, a
// call that fails in a way that may pass is repeated: reads always, writes under a name by which the servers apply them
// once. When the context is cancelled, the call returns at once. When its deadline passes, the call returns at most
// 100 ms later, because it waits so long for the server's own answer, which says whether a write took effect.
//
// # Errors
//
// Every error of a call is an *Error. Test its kind with errors.Is:
//
//	var e *pando.Error
//	switch {
//	case errors.Is(err, pando.ErrDeadline):    // also errors.Is(err, context.DeadlineExceeded)
//	case errors.Is(err, pando.ErrSnapshotGone):
//	case errors.As(err, &e):
//		log.Print(e.Code, e.Applied, e.Advice())
//	}
//
// Error.Applied says whether a write took effect.
//
// # Goroutines
//
// A Client is safe for use by several goroutines, and so are Snapshot and Session; a Session does one call after the
// other. Scanner, Watcher and Batch are for one goroutine at a time. The client starts a goroutine for each open
// Snapshot, which Close ends.
package pando

//go:generate ../generate.sh
