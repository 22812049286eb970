// Light or dark: as chosen before, else as the system has it.

import type { Theme } from "./scene/colour";

const KEY = "weightlapse-theme";

export function rememberedTheme(): Theme {
  try {
    const kept = localStorage.getItem(KEY);
    if (kept === "light" || kept === "dark") return kept;
  } catch { /* a page from a file, or in a frame, may have no storage: the system decides */ }
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

export function rememberTheme(theme: Theme): void {
  try { localStorage.setItem(KEY, theme); } catch { /* without storage the choice holds for this visit */ }
}
