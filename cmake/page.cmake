# The page in web/dist as a source of sluice_serve. Building it anew is `make web`, which nothing here needs.
file(GLOB page_dist CONFIGURE_DEPENDS web/dist/*)
set(page_source ${PROJECT_BINARY_DIR}/page_files.cc)
add_custom_command(
  OUTPUT ${page_source}
  COMMAND ${CMAKE_COMMAND} -D DIST=${PROJECT_SOURCE_DIR}/web/dist -D OUTPUT=${page_source} -P ${PROJECT_SOURCE_DIR}/cmake/embed_page.cmake
  DEPENDS ${page_dist} ${PROJECT_SOURCE_DIR}/cmake/embed_page.cmake
  VERBATIM)
target_sources(sluice_serve PRIVATE ${page_source})
