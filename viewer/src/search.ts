// Finding a tensor by words: every word must be in its name, in any order; a number means a whole number (13 is not 113).

export function matches(name: string, text: string): boolean {
  const where = name.toLowerCase();
  return text.toLowerCase().split(/\s+/).filter(Boolean).every((word) => (/^\d+$/.test(word) ? new RegExp(`(^|\\D)${word}(\\D|$)`).test(where) : where.includes(word)));
}
