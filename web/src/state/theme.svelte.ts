// Light or dark, reactive; the reader's choice is remembered in this browser.
//
//   theme.current   "light" or "dark"
//   theme.toggle()

import { chooseTheme, onTheme, type Theme } from "../render/colour";
import { remember, remembered } from "./remembered";

const KEY = "pellucid.theme";

class ThemeState {
  current = $state<Theme>("light");

  start(): void {
    const chosen = remembered(KEY);
    onTheme((now) => (this.current = now));
    chooseTheme(chosen === "light" || chosen === "dark" ? chosen : null);
  }

  toggle(): void {
    const next = this.current === "dark" ? "light" : "dark";
    remember(KEY, next);
    chooseTheme(next);
  }
}

export const theme = new ThemeState();
