// Command conformance runs the cases of clients/conformance with the Go client. clients/go/run_conformance builds and
// calls it; clients/conformance/README.md describes the cases and what it prints.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"pando.dev/go/pando"
)

type testCase struct {
	Name    string   `json:"name"`
	Only    []string `json:"only"`
	Client  object   `json:"client"`
	Through string   `json:"through"`
	Steps   []any    `json:"steps"`
}

type runner struct {
	addresses []string
	control   string
	timeout   time.Duration
}

func main() {
	cases := flag.String("cases", "", "the directory of the compiled cases")
	addresses := flag.String("addresses", "", "of the routers, with commas between")
	control := flag.String("control", "", "address of the control server")
	only := flag.String("only", "", "the name of one case")
	flag.Parse()
	timeout := 60
	if text := os.Getenv("PANDO_TEST_TIMEOUT_S"); text != "" {
		timeout, _ = strconv.Atoi(text)
	}
	r := &runner{strings.Split(*addresses, ","), *control, time.Duration(timeout) * time.Second}
	passed, failed := 0, 0
	for _, c := range load(*cases) {
		if *only != "" && c.Name != *only {
			continue
		}
		if c.Only != nil && !contains(c.Only, "go") {
			fmt.Println("skip", c.Name)
			continue
		}
		if err := r.run(c); err != nil {
			fmt.Printf("FAIL %s: %v\n", c.Name, err)
			failed++
		} else {
			fmt.Println("ok", c.Name)
			passed++
		}
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 || passed == 0 {
		os.Exit(1)
	}
}

func load(directory string) []testCase {
	files, err := filepath.Glob(filepath.Join(directory, "*.json"))
	if err != nil || len(files) == 0 {
		fmt.Fprintf(os.Stderr, "there are no cases in %q: %v\n", directory, err)
		os.Exit(2)
	}
	sort.Strings(files)
	var all []testCase
	for _, name := range files {
		file, err := os.Open(name)
		if err == nil {
			var cases []testCase
			decoder := json.NewDecoder(file)
			decoder.UseNumber()
			err = decoder.Decode(&cases)
			all = append(all, cases...)
			file.Close()
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			os.Exit(2)
		}
	}
	return all
}

func contains(list []string, text string) bool {
	for _, item := range list {
		if item == text {
			return true
		}
	}
	return false
}

// run runs a case, but not for longer than it may take.
func (r *runner) run(c testCase) error {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	e := &execution{runner: r, objects: map[string]any{}, addresses: r.addresses}
	ended := make(chan error, 1)
	go func() { ended <- r.runSteps(ctx, e, c) }()
	var err error
	select {
	case err = <-ended:
	case <-time.After(r.timeout + time.Second):
		err = fmt.Errorf("it takes longer than %v", r.timeout)
	}
	e.close()
	if e.needsHeal || c.Through != "" {
		if _, failed := r.ask(object{"action": "heal"}); failed != nil && err == nil {
			err = fmt.Errorf("heal: %v", failed)
		}
	}
	return err
}

func (r *runner) runSteps(ctx context.Context, e *execution, c testCase) (err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("%v", problem)
		}
	}()
	if c.Through == "proxy" {
		answer, err := r.ask(object{"action": "proxy"})
		if err != nil {
			return err
		}
		e.addresses = []string{answer.(object)["address"].(string)}
	}
	scope := newScope()
	client, err := e.newClient(scope, c.Client)
	if err != nil {
		return err
	}
	e.objects[""] = client
	return e.steps(ctx, scope, c.Steps)
}

// ask sends an action to the control server, and waits until it is done.
func (r *runner) ask(request object) (any, error) {
	c, err := net.Dial("tcp", r.control)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	line, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	if _, err = c.Write(append(line, '\n')); err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bufio.NewReader(c))
	decoder.UseNumber()
	var answer object
	if err = decoder.Decode(&answer); err != nil {
		return nil, err
	}
	if answer["ok"] != true {
		return nil, fmt.Errorf("the control server: %v", answer["error"])
	}
	return fromControl(answer), nil
}

func (e *execution) newClient(s *scope, options object) (*pando.Client, error) {
	config := pando.Config{Addresses: e.addresses, ClientName: "conformance"}
	for name, x := range options {
		switch name {
		case "as":
		case "timeout_ms":
			config.Timeout = milliseconds(s.intOf(x))
		case "max_staleness_ms":
			config.MaxStaleness = milliseconds(s.intOf(x))
		case "pool_size":
			config.PoolSize = int(s.intOf(x))
		case "client_name":
			config.ClientName = x.(string)
		case "read_level":
			config.ReadLevel = levelOf(x)
		case "write_level":
			config.WriteLevel = levelOf(x)
		case "addresses":
			config.Addresses = nil
			for _, address := range s.eval(x).([]any) {
				config.Addresses = append(config.Addresses, address.(string))
			}
		default:
			bad("unknown option of a client: %s", name)
		}
	}
	return pando.New(config)
}

func milliseconds(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

var levels = map[string]pando.Level{"ONE": pando.LevelOne, "QUORUM": pando.LevelQuorum, "ALL": pando.LevelAll,
	"LINEARIZABLE": pando.LevelLinearizable, "BOUNDED": pando.LevelBounded, "SESSION": pando.LevelSession}

func levelOf(x any) pando.Level {
	level, known := levels[x.(string)]
	if !known {
		bad("unknown level %v", x)
	}
	return level
}
