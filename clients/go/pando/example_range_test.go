//go:build go1.23

package pando_test

import (
	"fmt"
	"log"

	"pando.dev/go/pando"
)

func ExampleScanner_All() {
	for row, err := range client.Scan(ctx, pando.Prefix("fruit/")).All() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s = %s\n", row.Key, row.Value)
	}
}

func ExampleWatcher_All() {
	watcher, err := client.Watch(ctx, "fruit/")
	if err != nil {
		log.Fatal(err)
	}
	defer watcher.Close()
	for change, err := range watcher.All() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(change.Key, change.Version)
	}
}
