// Runs before the first paint, so that a dark page never flashes white.
import { apply_theme, chosen_theme } from "./theme";

apply_theme(chosen_theme());
