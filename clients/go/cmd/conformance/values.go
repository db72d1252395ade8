package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Values of results and variables are nil, bool, int64, string (text), raw (bytes), []any and object.

type raw []byte

func (r raw) String() string {
	if len(r) > 100 {
		return fmt.Sprintf("%q... (%d bytes)", []byte(r[:100]), len(r))
	}
	return fmt.Sprintf("%q", []byte(r))
}

type object = map[string]any

// scope has the variables that a step sees.
type scope struct{ variables map[string]any }

func newScope() *scope { return &scope{map[string]any{}} }

func (s *scope) copy() *scope {
	c := newScope()
	for name, value := range s.variables {
		c.variables[name] = value
	}
	return c
}

// badCase is a panic: the case itself is wrong.
type badCase string

func bad(format string, args ...any) { panic(badCase(fmt.Sprintf(format, args...))) }

// eval replaces variables and expressions. Text stays text; see bytesOf.
func (s *scope) eval(x any) any {
	switch x := x.(type) {
	case string:
		if name := strings.TrimPrefix(x, "$"); name != x && isName(name) {
			value, known := s.variables[name]
			if !known {
				bad("there is no variable %s", x)
			}
			return value
		}
		return x
	case json.Number:
		return parseInt(x.String())
	case []any:
		list := make([]any, len(x))
		for i, item := range x {
			list[i] = s.eval(item)
		}
		return list
	case object:
		return s.evalObject(x)
	}
	return x
}

func (s *scope) evalObject(x object) any {
	if times, has := x["times"]; has && x["repeat"] != nil && len(x) == 2 {
		return raw(strings.Repeat(string(s.bytesOf(x["repeat"])), int(s.intOf(times))))
	}
	if len(x) == 1 {
		for name, argument := range x {
			if value, is := s.expression(name, argument); is {
				return value
			}
		}
	}
	evaluated := object{}
	for name, value := range x {
		evaluated[name] = s.eval(value)
	}
	return evaluated
}

func (s *scope) expression(name string, x any) (any, bool) {
	switch name {
	case "hex":
		bytes, err := hex.DecodeString(x.(string))
		if err != nil {
			bad("%v", err)
		}
		return raw(bytes), true
	case "utf8":
		return raw(x.(string)), true
	case "concat":
		all := raw{}
		for _, part := range x.([]any) {
			part = s.eval(part)
			if number, is := part.(int64); is {
				part = strconv.FormatInt(number, 10)
			}
			all = append(all, s.bytesOf(part)...)
		}
		return all, true
	case "int":
		return parseInt(x.(string)), true
	case "now_ms":
		return time.Now().UnixMilli() + s.intOf(x), true
	case "plus":
		sum := int64(0)
		for _, part := range x.([]any) {
			sum += s.intOf(part)
		}
		return sum, true
	case "numbered":
		return s.numbered(x.(object)), true
	}
	return nil, false
}

func (s *scope) numbered(x object) []any {
	var keys []any
	from, to, digits := s.intOf(x["from"]), s.intOf(x["to"]), int(s.intOf(x["digits"]))
	step := int64(1)
	if from > to {
		step = -1
	}
	for i := from; ; i += step {
		keys = append(keys, append(raw(s.bytesOf(x["prefix"])), fmt.Sprintf("%0*d", digits, i)...))
		if i == to {
			return keys
		}
	}
}

func (s *scope) bytesOf(x any) []byte {
	switch x := s.eval(x).(type) {
	case nil:
		return nil
	case string:
		return []byte(x)
	case raw:
		return append([]byte{}, x...)
	default:
		bad("these are no bytes: %v", x)
	}
	return nil
}

func (s *scope) intOf(x any) int64 {
	number, is := s.eval(x).(int64)
	if !is {
		bad("this is no number: %v", x)
	}
	return number
}

func isName(text string) bool {
	for _, c := range text {
		if c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return text != ""
}

func parseInt(text string) int64 {
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		bad("%v", err)
	}
	return number
}

// fromControl makes values of an answer of the control server: {"hex": "..."} are bytes.
func fromControl(x any) any { return newScope().eval(x) }

// toControl makes an argument of a control step: variables are replaced, and bytes become {"hex": "..."}.
func (s *scope) toControl(x any) any {
	switch x := x.(type) {
	case string:
		if strings.HasPrefix(x, "$") {
			return s.toControl(s.eval(x))
		}
	case raw:
		return object{"hex": hex.EncodeToString(x)}
	case []any:
		list := make([]any, len(x))
		for i, item := range x {
			list[i] = s.toControl(item)
		}
		return list
	case object:
		replaced := object{}
		for name, value := range x {
			replaced[name] = s.toControl(value)
		}
		return replaced
	}
	return x
}

// at returns a part of a result: "rows.0.key", or "." for all of it.
func at(result any, path string) any {
	if path == "." {
		return result
	}
	for _, step := range strings.Split(path, ".") {
		switch part := result.(type) {
		case object:
			result = part[step]
		case []any:
			index, err := strconv.Atoi(step)
			if err != nil || index >= len(part) {
				bad("there is no %s in the result", path)
			}
			result = part[index]
		default:
			bad("there is no %s in the result", path)
		}
	}
	return result
}

// show writes a value for a message.
func show(x any) string {
	var text string
	switch x := x.(type) {
	case object:
		parts := make([]string, 0, len(x))
		for _, name := range sortedKeys(x) {
			parts = append(parts, name+": "+show(x[name]))
		}
		text = "{" + strings.Join(parts, ", ") + "}"
	case []any:
		parts := make([]string, 0, len(x))
		for _, item := range x {
			parts = append(parts, show(item))
		}
		text = "[" + strings.Join(parts, ", ") + "]"
	case string:
		text = strconv.Quote(x)
	case nil:
		text = "null"
	default:
		text = fmt.Sprint(x)
	}
	if len(text) > 600 {
		text = text[:600] + "..."
	}
	return text
}
