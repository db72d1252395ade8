package dev.pando.conformance;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonPrimitive;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Whether a result is what a step expects. */
final class Matcher {
  private static final Set<String> COMPARISONS = Set.of("gt", "gte", "lt", "lte");
  private static final Set<String> BYTES = Set.of("hex", "utf8", "repeat", "concat");
  private static final Set<String> NUMBERS = Set.of("int", "now_ms", "plus");

  private final Scope scope;

  Matcher(Scope scope) {
    this.scope = scope;
  }

  boolean matches(JsonElement expected, Object actual) {
    if (expected.isJsonNull()) return actual == null;
    if (Scope.isVariable(expected)) return equal(scope.variable(expected), actual);
    if (expected.isJsonPrimitive()) return primitive(expected.getAsJsonPrimitive(), actual);
    if (expected.isJsonArray()) return list(expected.getAsJsonArray(), actual);
    return object(expected.getAsJsonObject(), actual);
  }

  private static boolean equal(Object expected, Object actual) {
    if (expected instanceof byte[] bytes) return actual instanceof byte[] other && Arrays.equals(bytes, other);
    if (expected instanceof String text && actual instanceof byte[] bytes) {
      return Arrays.equals(text.getBytes(StandardCharsets.UTF_8), bytes);
    }
    return expected == null ? actual == null : expected.equals(actual);
  }

  private static boolean primitive(JsonPrimitive expected, Object actual) {
    if (expected.isBoolean()) return equal(expected.getAsBoolean(), actual);
    return equal(expected.isNumber() ? (Object) expected.getAsLong() : expected.getAsString(), actual);
  }

  private boolean list(JsonArray expected, Object actual) {
    if (!(actual instanceof List<?> items) || items.size() != expected.size()) return false;
    for (int i = 0; i < items.size(); ++i) {
      if (!matches(expected.get(i), items.get(i))) return false;
    }
    return true;
  }

  private boolean object(JsonObject expected, Object actual) {
    Set<String> names = expected.keySet();
    if (!names.isEmpty() && COMPARISONS.containsAll(names)) return compares(expected, actual);
    String first = names.isEmpty() ? "" : names.iterator().next();
    if (expected.has("repeat") || (names.size() == 1 && BYTES.contains(first))) {
      return equal(scope.bytes(expected), actual);
    }
    if (names.size() == 1) {
      if (NUMBERS.contains(first)) return equal(scope.number(expected), actual);
      Boolean matched = matcher(first, expected.get(first), actual);
      if (matched != null) return matched;
    }
    if (!(actual instanceof Map<?, ?> map)) return false;
    for (String name : names) {
      if (!map.containsKey(name) || !matches(expected.get(name), map.get(name))) return false;
    }
    return true;
  }

  private boolean compares(JsonObject expected, Object actual) {
    if (!(actual instanceof Long number)) return false;
    for (String name : expected.keySet()) {
      int order = Long.compare(number, scope.number(expected.get(name)));
      boolean holds = switch (name) {
        case "gt" -> order > 0;
        case "gte" -> order >= 0;
        case "lt" -> order < 0;
        default -> order <= 0;
      };
      if (!holds) return false;
    }
    return true;
  }

  /** Null = there is no such matcher, so it is the name of a field. */
  private Boolean matcher(String name, JsonElement argument, Object actual) {
    switch (name) {
      case "any": return actual != null;
      case "size": return actual instanceof byte[] bytes && bytes.length == scope.number(argument);
      case "length": return actual instanceof List<?> list && list.size() == scope.number(argument);
      case "not": return !matches(argument, actual);
      case "contains": return text(actual).contains(argument.getAsString());
      case "numbered":
        JsonObject expression = new JsonObject();
        expression.add(name, argument);
        return sameKeys(scope.keys(expression), actual);
      case "one_of":
        for (JsonElement choice : argument.getAsJsonArray()) {
          if (matches(choice, actual)) return true;
        }
        return false;
      case "each": return actual instanceof List<?> list && list.stream().allMatch(item -> matches(argument, item));
      case "unordered": return unordered(argument.getAsJsonArray(), actual);
      default: return null;
    }
  }

  private static String text(Object actual) {
    return actual instanceof byte[] bytes ? new String(bytes, StandardCharsets.UTF_8) : String.valueOf(actual);
  }

  private static boolean sameKeys(List<byte[]> keys, Object actual) {
    if (!(actual instanceof List<?> list) || list.size() != keys.size()) return false;
    for (int i = 0; i < keys.size(); ++i) {
      if (!equal(keys.get(i), list.get(i))) return false;
    }
    return true;
  }

  private boolean unordered(JsonArray expected, Object actual) {
    if (!(actual instanceof List<?> list) || list.size() != expected.size()) return false;
    List<Object> left = new ArrayList<>(list);
    for (JsonElement element : expected) {
      int found = -1;
      for (int i = 0; i < left.size() && found < 0; ++i) {
        if (matches(element, left.get(i))) found = i;
      }
      if (found < 0) return false;
      left.remove(found);
    }
    return true;
  }
}
