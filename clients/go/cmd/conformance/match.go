package main

import (
	"bytes"
	"sort"
	"strings"
)

// matches says whether a result is as expected. `expected` is as it stands in the case.
func (s *scope) matches(expected, actual any) bool {
	if matcher, is := expected.(object); is {
		if known, result := s.matcher(matcher, actual); known {
			return result
		}
		if value := s.eval(expected); !isObject(value) {
			return s.matches(value, actual)
		}
		fields, is := actual.(object)
		if !is {
			return false
		}
		for name, part := range matcher {
			if !s.matches(part, fields[name]) {
				return false
			}
		}
		return true
	}
	if list, is := expected.([]any); is {
		items, is := actual.([]any)
		if !is || len(items) != len(list) {
			return false
		}
		for i, item := range list {
			if !s.matches(item, items[i]) {
				return false
			}
		}
		return true
	}
	if text, is := expected.(string); is && strings.HasPrefix(text, "$") {
		if value := s.eval(text); value != expected {
			return s.matches(value, actual)
		}
	}
	return equal(s.eval(expected), actual)
}

func isObject(x any) bool {
	_, is := x.(object)
	return is
}

func equal(expected, actual any) bool {
	if text, is := expected.(string); is {
		if _, is := actual.(raw); is {
			expected = raw(text)
		}
	}
	if want, is := expected.(raw); is {
		have, is := actual.(raw)
		return is && bytes.Equal(want, have)
	}
	if _, is := actual.(raw); is {
		return false
	}
	return expected == actual
}

// matcher: `known` if all fields are those of matchers.
func (s *scope) matcher(fields object, actual any) (known, result bool) {
	result = true
	for name, argument := range fields {
		is, holds := s.one(name, argument, actual)
		if !is {
			return false, false
		}
		result = result && holds
	}
	return len(fields) > 0, result
}

func (s *scope) one(name string, argument, actual any) (known, holds bool) {
	switch name {
	case "any":
		return true, actual != nil
	case "gt", "gte", "lt", "lte":
		number, is := actual.(int64)
		if !is {
			return true, false
		}
		limit := s.intOf(argument)
		switch name {
		case "gt":
			return true, number > limit
		case "gte":
			return true, number >= limit
		case "lt":
			return true, number < limit
		}
		return true, number <= limit
	case "size":
		data, is := actual.(raw)
		return true, is && int64(len(data)) == s.intOf(argument)
	case "length":
		list, is := actual.([]any)
		return true, is && int64(len(list)) == s.intOf(argument)
	case "not":
		return true, !s.matches(argument, actual)
	case "contains":
		text, is := actual.(string)
		return true, is && strings.Contains(text, argument.(string))
	case "one_of":
		for _, choice := range argument.([]any) {
			if s.matches(choice, actual) {
				return true, true
			}
		}
		return true, false
	case "each":
		list, is := actual.([]any)
		for _, item := range list {
			is = is && s.matches(argument, item)
		}
		return true, is
	case "unordered":
		list, is := actual.([]any)
		return true, is && s.unordered(argument.([]any), list)
	}
	return false, false
}

// unordered finds an element for each expected one.
func (s *scope) unordered(expected, actual []any) bool {
	if len(expected) != len(actual) {
		return false
	}
	if len(expected) == 0 {
		return true
	}
	for i, item := range actual {
		if s.matches(expected[0], item) {
			rest := append(append([]any{}, actual[:i]...), actual[i+1:]...)
			if s.unordered(expected[1:], rest) {
				return true
			}
		}
	}
	return false
}

func sortedKeys(x object) []string {
	names := make([]string, 0, len(x))
	for name := range x {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
