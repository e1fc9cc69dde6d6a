# Writes OUTPUT, the C++ source of page_files() (src/serve/page.h), from the files of the folder DIST.
# usage: cmake -D DIST=web/dist -D OUTPUT=page_files.cc -P cmake/embed_page.cmake
file(GLOB files ${DIST}/*)
set(literals "")
set(rows "")
foreach(file ${files})
  get_filename_component(name ${file} NAME)
  get_filename_component(stem ${file} NAME_WE)
  get_filename_component(extension ${file} LAST_EXT)
  set(path "/${name}")
  if(extension STREQUAL ".html")
    set(type "text/html; charset=utf-8")
    set(path "/${stem}")
    string(REGEX REPLACE "^/index$" "/" path ${path})
  elseif(extension STREQUAL ".js")
    set(type "text/javascript; charset=utf-8")
  elseif(extension STREQUAL ".css")
    set(type "text/css; charset=utf-8")
  elseif(extension STREQUAL ".svg")
    set(type "image/svg+xml")
  else()
    message(FATAL_ERROR "${file}: expected .html, .js, .css or .svg")
  endif()
  file(READ ${file} bytes HEX)
  string(REGEX REPLACE "(..)" "\\\\x\\1" bytes "${bytes}")
  file(SHA256 ${file} hash)
  string(SUBSTRING ${hash} 0 16 hash)
  string(MAKE_C_IDENTIFIER ${name} variable)
  string(APPEND literals "constexpr std::string_view ${variable} = \"${bytes}\"sv;\n")
  string(APPEND rows "    {\"${path}\", \"${type}\", R\"(\"${hash}\")\", ${variable}},\n")
endforeach()
file(WRITE ${OUTPUT} "#include \"serve/page.h\"

namespace sluice {

namespace {

using namespace std::string_view_literals;

${literals}
constexpr PageFile kFiles[] = {
${rows}};

}  // namespace

std::span<const PageFile> page_files() { return kFiles; }

}  // namespace sluice
")
