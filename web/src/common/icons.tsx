// Line icons of 20 x 20, drawn with the colour of the text around them.
const icon = (path: string) => () => (
  <svg viewBox="0 0 20 20" width="20" height="20" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round"
    stroke-linejoin="round" aria-hidden="true"><path d={path} /></svg>
);

export const MenuIcon = icon("M3 5.5h14M3 10h14M3 14.5h14");
export const PlusIcon = icon("M10 4v12M4 10h12");
export const PencilIcon = icon("m12.8 4.2 3 3L7 16l-3.8.8L4 13zM11 6l3 3");
export const TrashIcon = icon("M4 6h12M8 6V4h4v2M5.5 6l.7 10h7.6l.7-10M8.5 9v4.5M11.5 9v4.5");
export const SendIcon = icon("M10 16V4M5 9l5-5 5 5");
export const StopIcon = icon("M6 6h8v8H6z");
export const AgainIcon = icon("M15.8 11.5A6 6 0 1 1 15 7l1.5 1.5M16.5 4.5v4h-4");
export const CopyIcon = icon("M7.5 7.5h8v8h-8zM12.5 7.5v-3h-8v8h3");
export const CheckIcon = icon("m4.5 10.5 3.5 3.5 7.5-8");
export const SlidersIcon = icon("M3 6h7M14 6h3M3 14h3M10 14h7M12 4v4M8 12v4");
export const ChartIcon = icon("M3.5 16.5h13M5 13l3.5-4 3 2.5L16 5.5");
export const DownIcon = icon("M10 4v12M5 11l5 5 5-5");
export const ChatIcon = icon("M4 4.5h12v9H9l-3.5 3v-3H4z");
export const SystemThemeIcon = icon("M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM10 3v14M10 6h5.6M10 9h6.9M10 12h6.7M10 15h4.6");
export const LightThemeIcon = icon("M10 6.8a3.2 3.2 0 1 1 0 6.4 3.2 3.2 0 0 1 0-6.4M10 2.5v1.3M10 16.2v1.3M2.5 10h1.3M16.2 10h1.3M4.7 4.7l.9.9M14.4 14.4l.9.9M4.7 15.3l.9-.9M14.4 5.6l.9-.9");
export const DarkThemeIcon = icon("M16.5 11.8A6.8 6.8 0 0 1 8.2 3.5a6.8 6.8 0 1 0 8.3 8.3z");
