# What `cmake --install` places beside the program, and the Debian package made from it (`make deb`).
include(GNUInstallDirs)
install(DIRECTORY configs/models DESTINATION ${CMAKE_INSTALL_DATADIR}/sluice/configs)
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DATADIR}/sluice)
install(FILES README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DATADIR}/sluice OPTIONAL)
install(FILES packaging/sluice.service DESTINATION lib/systemd/system)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/sluice RENAME copyright)
install(FILES web/licenses.txt DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/sluice RENAME copyright-page)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME sluice)
set(CPACK_PACKAGE_CONTACT "Sluice contributors <sluice@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
    "One native program that trains language models of the DeepSeek-V3
architecture (latent attention, mixture of experts, multi-token prediction)
from text, and writes with them, on an ordinary processor.")
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
include(CPack)
