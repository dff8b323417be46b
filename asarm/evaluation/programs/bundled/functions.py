"""Small functions and their tests: each line of a body becomes a single-line infilling task.

A function is followed by the test of its tasks, `check_NAME`. It stands here as it is shown to a
model, so a body keeps to plain Python, and each of its lines is there for the test to miss.
"""


def running_total(numbers):
    """Return the list of sums of the first 1, 2, 3, ... numbers.

    >>> running_total([1, 2, 3])
    [1, 3, 6]
    """
    total = 0
    result = []
    for number in numbers:
        total += number
        result.append(total)
    return result


def check_running_total(candidate):
    assert candidate([]) == []
    assert candidate([5]) == [5]
    assert candidate([1, 2, 3]) == [1, 3, 6]
    assert candidate([4, -4, 2]) == [4, 0, 2]


def count_vowels(text):
    """Return how many vowels (a, e, i, o, u) the text has, in upper or lower case.

    >>> count_vowels("An apple")
    3
    """
    count = 0
    for letter in text.lower():
        if letter in "aeiou":
            count += 1
    return count


def check_count_vowels(candidate):
    assert candidate("") == 0
    assert candidate("rhythm") == 0
    assert candidate("An apple") == 3
    assert candidate("AEIOU and y") == 6


def is_palindrome(text):
    """Return whether the letters of the text read the same from both ends.

    >>> is_palindrome("Never odd or even")
    True
    """
    letters = [c for c in text.lower() if c.isalpha()]
    return letters == letters[::-1]


def check_is_palindrome(candidate):
    assert candidate("") is True
    assert candidate("Never odd or even") is True
    assert candidate("A man, a plan") is False
    assert candidate("Madam, I'm Adam") is True


def largest_gap(numbers):
    """Return the largest difference between neighbours of the sorted list, or 0.

    >>> largest_gap([1, 9, 4])
    5
    """
    ordered = sorted(numbers)
    gaps = [ordered[i + 1] - ordered[i] for i in range(len(ordered) - 1)]
    return max(gaps, default=0)


def check_largest_gap(candidate):
    assert candidate([]) == 0
    assert candidate([3]) == 0
    assert candidate([1, 9, 4]) == 5
    assert candidate([10, -10, 0, 1]) == 10


def word_lengths(sentence):
    """Return a dictionary from each word of the sentence to its length.

    >>> word_lengths("to be here")
    {'to': 2, 'be': 2, 'here': 4}
    """
    lengths = {}
    for word in sentence.split():
        lengths[word] = len(word)
    return lengths


def check_word_lengths(candidate):
    assert candidate("") == {}
    assert candidate("to be here") == {"to": 2, "be": 2, "here": 4}
    assert candidate("  a  bb ") == {"a": 1, "bb": 2}


def greatest_common_divisor(a, b):
    """Return the greatest number that divides both a and b.

    >>> greatest_common_divisor(12, 18)
    6
    """
    if b == 0:
        return a
    return greatest_common_divisor(b, a % b)


def check_greatest_common_divisor(candidate):
    assert candidate(12, 18) == 6
    assert candidate(7, 5) == 1
    assert candidate(9, 0) == 9
    assert candidate(100, 75) == 25


def digits_sum(number):
    """Return the sum of the decimal digits of a number.

    >>> digits_sum(-305)
    8
    """
    total = 0
    for digit in str(abs(number)):
        total += int(digit)
    return total


def check_digits_sum(candidate):
    assert candidate(0) == 0
    assert candidate(7) == 7
    assert candidate(-305) == 8
    assert candidate(9999) == 36


def remove_repeats(items):
    """Return the items, each only where it stands first.

    >>> remove_repeats([3, 1, 3, 2, 1])
    [3, 1, 2]
    """
    seen = set()
    result = []
    for item in items:
        if item not in seen:
            seen.add(item)
            result.append(item)
    return result


def check_remove_repeats(candidate):
    assert candidate([]) == []
    assert candidate([3, 1, 3, 2, 1]) == [3, 1, 2]
    assert candidate(["b", "b", "a"]) == ["b", "a"]


def split_in_chunks(items, size):
    """Return the list cut into lists of `size` items; the last may be shorter.

    >>> split_in_chunks([1, 2, 3], 2)
    [[1, 2], [3]]
    """
    chunks = []
    for start in range(0, len(items), size):
        chunks.append(items[start : start + size])
    return chunks


def check_split_in_chunks(candidate):
    assert candidate([], 3) == []
    assert candidate([1, 2, 3], 2) == [[1, 2], [3]]
    assert candidate([1, 2, 3, 4], 2) == [[1, 2], [3, 4]]
    assert candidate([1, 2], 5) == [[1, 2]]


def fibonacci(n):
    """Return the n-th Fibonacci number, where fibonacci(0) is 0 and fibonacci(1) is 1.

    >>> fibonacci(10)
    55
    """
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def check_fibonacci(candidate):
    assert [candidate(n) for n in range(7)] == [0, 1, 1, 2, 3, 5, 8]
    assert candidate(10) == 55
    assert candidate(30) == 832040


def flatten(lists):
    """Return the items of all lists in one list.

    >>> flatten([[1], [], [2, 3]])
    [1, 2, 3]
    """
    result = []
    for items in lists:
        result.extend(items)
    return result


def check_flatten(candidate):
    assert candidate([]) == []
    assert candidate([[1], [], [2, 3]]) == [1, 2, 3]
    assert candidate([["a"], ["b"]]) == ["a", "b"]


def to_binary(number):
    """Return the binary digits of a number that is not negative, as text.

    >>> to_binary(6)
    '110'
    """
    if number < 2:
        return str(number)
    digits = to_binary(number // 2)
    return digits + str(number % 2)


def check_to_binary(candidate):
    assert candidate(0) == "0"
    assert candidate(1) == "1"
    assert candidate(6) == "110"
    assert candidate(37) == "100101"


def second_largest(numbers):
    """Return the second largest of the different numbers, or None where there is no such.

    >>> second_largest([4, 9, 9, 1])
    4
    """
    different = sorted(set(numbers))
    if len(different) < 2:
        return None
    return different[-2]


def check_second_largest(candidate):
    assert candidate([]) is None
    assert candidate([5, 5]) is None
    assert candidate([4, 9, 9, 1]) == 4
    assert candidate([2, 1]) == 1


def merge_counts(first, second):
    """Return the counts of both dictionaries added up, without changing either.

    >>> merge_counts({"a": 1}, {"a": 2, "b": 5})
    {'a': 3, 'b': 5}
    """
    merged = dict(first)
    for key, count in second.items():
        merged[key] = merged.get(key, 0) + count
    return merged


def check_merge_counts(candidate):
    first = {"a": 1}
    assert candidate(first, {"a": 2, "b": 5}) == {"a": 3, "b": 5}
    assert first == {"a": 1}
    assert candidate({}, {}) == {}
    assert candidate({"x": 2}, {"y": 3}) == {"x": 2, "y": 3}


def clamp(value, low, high):
    """Return the value, or the nearest of low and high where it lies outside of them.

    >>> clamp(12, 0, 10)
    10
    """
    if value < low:
        return low
    if value > high:
        return high
    return value


def check_clamp(candidate):
    assert candidate(5, 0, 10) == 5
    assert candidate(-1, 0, 10) == 0
    assert candidate(12, 0, 10) == 10


def transpose(rows):
    """Return the columns of a table that is given by its rows.

    >>> transpose([[1, 2], [3, 4]])
    [[1, 3], [2, 4]]
    """
    if not rows:
        return []
    width = len(rows[0])
    return [[row[i] for row in rows] for i in range(width)]


def check_transpose(candidate):
    assert candidate([]) == []
    assert candidate([[1, 2], [3, 4]]) == [[1, 3], [2, 4]]
    assert candidate([[1, 2, 3]]) == [[1], [2], [3]]


def is_prime(number):
    """Return whether a number is prime.

    >>> is_prime(7)
    True
    """
    if number < 2:
        return False
    divisors = [d for d in range(2, number) if number % d == 0]
    return len(divisors) == 0


def check_is_prime(candidate):
    primes = [n for n in range(-2, 30) if candidate(n)]
    assert primes == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    assert candidate(25) is False
    assert candidate(97) is True
    assert candidate(1) is False


def caesar(text, shift):
    """Return the text with each lower-case letter moved on by `shift` in the alphabet.

    >>> caesar("xyz!", 3)
    'abc!'
    """
    result = ""
    for c in text:
        if "a" <= c <= "z":
            c = chr((ord(c) - ord("a") + shift) % 26 + ord("a"))
        result += c
    return result


def check_caesar(candidate):
    assert candidate("", 5) == ""
    assert candidate("xyz!", 3) == "abc!"
    assert candidate("Hello", 1) == "Hfmmp"
    assert candidate("b", -2) == "z"


def binary_search(items, target):
    """Return the index of the target in a sorted list, or -1.

    >>> binary_search([1, 3, 5, 8], 5)
    2
    """
    low, high = 0, len(items) - 1
    while low <= high:
        middle = (low + high) // 2
        if items[middle] == target:
            return middle
        if items[middle] < target:
            low = middle + 1
        else:
            high = middle - 1
    return -1


def check_binary_search(candidate):
    assert candidate([], 1) == -1
    assert [candidate([1, 3, 5, 8], n) for n in (1, 3, 5, 8)] == [0, 1, 2, 3]
    assert [candidate([1, 3, 5, 8], n) for n in (0, 2, 9)] == [-1, -1, -1]


def run_lengths(text):
    """Return each run of equal letters as a pair of the letter and its length.

    >>> run_lengths("aab")
    [('a', 2), ('b', 1)]
    """
    runs = []
    for c in text:
        if runs and runs[-1][0] == c:
            runs[-1] = (c, runs[-1][1] + 1)
        else:
            runs.append((c, 1))
    return runs


def check_run_lengths(candidate):
    assert candidate("") == []
    assert candidate("aab") == [("a", 2), ("b", 1)]
    assert candidate("abba") == [("a", 1), ("b", 2), ("a", 1)]


def initials(name):
    """Return the first letters of the words of a name, in upper case, each with a dot.

    >>> initials("ada king lovelace")
    'A.K.L.'
    """
    letters = [word[0].upper() for word in name.split()]
    return "".join(letter + "." for letter in letters)


def check_initials(candidate):
    assert candidate("") == ""
    assert candidate("ada king lovelace") == "A.K.L."
    assert candidate("Alan Turing") == "A.T."


def balanced(text):
    """Return whether every bracket of the text, ( or ), has its partner.

    >>> balanced("(a)(")
    False
    """
    depth = 0
    for c in text:
        if c == "(":
            depth += 1
        elif c == ")":
            depth -= 1
        if depth < 0:
            return False
    return depth == 0


def check_balanced(candidate):
    assert candidate("") is True
    assert candidate("(a(b))") is True
    assert candidate("(a)(") is False
    assert candidate(")(") is False
