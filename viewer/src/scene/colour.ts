// Values to colours, as weightlapse/picture has them for films, pages and figures alike.

export { STEPS, codeOf, limitOf as scaleLimit } from "../picture/codes";
export { MARKS, lookup, type Theme } from "../picture/palette";
export type { Mode } from "../picture/thin";
